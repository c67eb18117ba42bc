"""The way of the data between two parsed photos and one: mix, plan, paint, finish."""
