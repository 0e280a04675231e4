"""
What replicas must agree on: used states, leases, tickets, renewed sessions, logouts; in memory or in Redis.

Refuses to know what its values mean.
"""
