"""
ENFORCE, with sockets: everything that the decision core (``policies``) may not do.

Rooms, dependencies pointing down only (import-linter holds this, see pyproject.toml)::

    cli > demo > app > edges > gate > identity | limits | backends | activator | upstream
        > settings | policy_folder | metrics | audit > policies

A request flows edge -> gate -> edge: an edge turns HTTP into a ``Head``, the gate asks the five questions and answers a
verdict, the edge forwards or refuses. Nothing but ``edges`` knows the public side's HTTP library.
"""
