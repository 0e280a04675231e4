"""
Who logged in in a browser, and for how long that holds: sealed cookies, tickets, one refresh for all who need it.

Refuses to know how a provider is asked and what a session may do.
"""
