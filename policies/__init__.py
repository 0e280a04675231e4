"""
DECIDE: what operators write and how it is judged. No socket, file, clock, environment or log is reachable from here.

Theory of operation
===================

Every request is asked five questions, always in this order:

1. **Which tenant, which function?** (``tenancy``)  The canonical host names the tenant before any credential is
   looked at,
   because a credential that could choose the policies it is judged by would choose the weakest.
2. **Who is calling?** (``tokens``)  Only the tenant's own providers and service accounts may vouch for anybody.
3. **May they?** (``rbac``, ``conditions``)  Default deny, deny overrides, order never matters, errors never widen.
4. **Not too much?** (``limits``)  After 3, so that a stranger cannot spend what belongs to an honest caller.
5. **Is it there, and awake?** (``coldstart``)  Last, so that nothing unauthenticated, unauthorised or over its limit
   ever
   wakes a function, costs a backend call or an upstream byte; and whether a function exists is not told before 3.

``pipeline`` holds that order and nothing else. It is a generator: facts that only the world knows (is this signature
good,
is there quota left, is a replica ready) are yielded as needs and sent back as answers. So the core is one colour, is
tested without a fixture, and every edge (proxy, Kong plugin, forward-auth) gives the same answer because this one
gives it.

Data flows one way: documents -> ``compiler`` -> ``tables``; wire -> ``request`` -> ``pipeline`` -> ``decision`` ->
``problem``.
"""
