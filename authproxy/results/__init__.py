"""
Results of deferred requests: where they are kept until their owner fetches them, and for how long.

The room decides who has a place, what is over and what there is no more room for. It refuses to know functions,
requests and pages: who runs a deferred request brings its answer, and a page asks who may have it.
"""
