"""Statistics over plain arrays: intervals, paired tests, Pareto fronts."""
