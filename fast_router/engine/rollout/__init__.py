"""Two ways to route, side by side on live traffic: who is in which arm, what is counted, what may be concluded."""
