"""
Results brought to where a caller asked for them (``X-Callback-Url``), if its tenant's policy lists that host.

Both ends are strangers: a caller writes the address and a function the body. What is sent is what was judged, to
addresses that were vetted for that very attempt. Refuses to know requests, functions and where results are kept.
"""
