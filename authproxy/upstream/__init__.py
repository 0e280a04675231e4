"""
The connections a request leaves by: a pool, one request's way through it, and tunnels.

It knows the public side only as an ``Exchange`` and policies only as the values a ``Passed`` carries.
"""
