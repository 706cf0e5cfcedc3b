"""What is derived from judgments: leaderboard, comparisons, trade-off, costs."""
