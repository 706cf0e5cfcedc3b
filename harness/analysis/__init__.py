"""Results derived from judgments: leaderboard, comparisons, trade-off, costs."""
