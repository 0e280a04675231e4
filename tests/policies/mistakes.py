"""
Mistakes of form: what follows ``version: 1`` and ``tenant: acme`` in acme.yaml -> ``line:column: message``, whole.

Lines and columns count from the file's begin.
"""
# ruff: noqa: E501  # a table of whole messages, one a line, as operators read them

from __future__ import annotations

from typing import Final

MISSHAPEN: Final[dict[str, tuple[str, str]]] = {
    "duplicate key": (
        "mode: enforce\nroles: {}\nmode: disabled\n",
        "5:1: the key 'mode' stands here a second time, first in line 3",
    ),
    "duplicate key deep": (
        "roles:\n  a: {}\n  b: {}\n  a: {}\n",
        "6:3: the key 'a' stands here a second time, first in line 4",
    ),
    "unknown key": ("role: {}\n", "3:1: unknown key 'role'; did you mean 'roles'?"),
    "unknown key far from any": (
        "limits: [{id: a, per: ip, rate: 1/s, xyzzy: 1}]\n",
        "3:38: unknown key 'xyzzy'; expected one of id, per, rate, burst, concurrent, wakes, functions, on_store_failure",
    ),
    "unknown key in a condition": (
        "deny:\n  - {id: a, functions: [x], actions: [invoke], unless: {group: [sre]}}\n",
        "4:57: unknown key 'group'; did you mean 'groups'?",
    ),
    "unknown key by its alias": (
        "deny:\n  - {id: a, functions: [x], actions: [invoke], when: {time: {form: '08:00'}}}\n",
        "4:62: unknown key 'form'; did you mean 'from'?",
    ),
    "missing key": ("limits:\n  - per: ip\n    rate: 1/s\n", "4:5: 'id' is missing"),
    "missing audiences": (
        "identity:\n  - {name: a, issuer: 'https://i.example', algorithms: [RS256]}\n",
        "4:5: 'audiences' is missing; without it tokens meant for others would be believed",
    ),
    "number where text": (
        "limits:\n  - {id: 7, per: ip, rate: 1/s}\n",
        "4:10: 7 is a number in YAML; expected text: quote it",
    ),
    "octal where text": (
        "limits:\n  - {id: 0o17, per: ip, rate: 1/s}\n",
        "4:10: 15 is a number in YAML; expected text: quote it",
    ),
    "truth where text": (
        "bindings: [{id: b, roles: [a], groups: [true]}]\n",
        "3:41: true is a truth value in YAML; expected text: quote it",
    ),
    "YAML 1.1 truth": ("functions: {web: {direct: off}}\n", "3:27: 'off' is text in YAML 1.2; write false"),
    "text where truth": ("functions: {web: {direct: 'true'}}\n", "3:27: 'true' is text; expected true or false"),
    "text where number": (
        "limits: [{id: a, per: ip, concurrent: many}]\n",
        "3:39: 'many' is text; expected a whole number",
    ),
    "text where list": (
        "bindings: [{id: b, roles: admin}]\n",
        "3:27: 'admin' is text; expected a list, such as [admin]",
    ),
    "list where mapping": ("roles: [a]\n", "3:8: a list stands here; expected a mapping (key: value)"),
    "text where mapping": ("roles: {a: b}\n", "3:12: 'b' is text; expected a mapping (key: value)"),
    "mapping where list": ("deny: {}\n", "3:7: a mapping stands here; expected a list"),
    "nothing": ("deny:\nroles: {}\n", "3:6: nothing stands here; write a value, or leave the key out"),
    "nothing as a condition": (
        "roles: {a: {allow: [{functions: [x], actions: [invoke], when: }]}}\n",
        "3:63: nothing stands here; write a value, or leave the key out",
    ),
    "empty list": (
        "roles: {a: {allow: [{functions: [], actions: [invoke]}]}}\n",
        "3:33: nothing is in it, so it could never match; expected at least one item",
    ),
    "empty methods": (
        "deny: [{id: a, functions: [x], actions: [invoke], methods: []}]\n",
        "3:60: nothing is in it, so it could never match; expected at least one item",
    ),
    "algorithm none": (
        "identity: [{name: a, issuer: 'https://i.example', audiences: [a], algorithms: [none]}]\n",
        "3:80: 'none' is never believed: who can verify such a token can forge it; expected one of 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512' or 'EdDSA'",
    ),
    "unknown action": (
        "roles: {a: {allow: [{functions: [x], actions: [invok]}]}}\n",
        "3:48: 'invok' is unknown here; did you mean 'invoke'? expected '*', 'invoke', 'describe', 'list', 'deploy', 'update', 'delete', 'scale', 'logs' or 'secrets'",
    ),
    "rate zero": (
        "limits: [{id: a, per: ip, rate: 0/s}]\n",
        "3:33: '0/s' is not a rate of at least 1 such as 20/s, 30/m or 5/h",
    ),
    "burst zero": ("limits: [{id: a, per: ip, rate: 1/s, burst: 0}]\n", "3:45: 0 is too small; expected at least 1"),
    "method in small letters": (
        "deny: [{id: a, functions: [x], actions: [invoke], methods: [get]}]\n",
        "3:61: 'get' is not an HTTP method in capitals such as GET",
    ),
    "pattern in the middle": (
        "functions:\n  a*b: {}\n",
        "4:3: 'a*b' is not a function name (lower-case letters, digits, inner '-'), 'prefix*' or '*'",
    ),
    "secret that leaves its folder": (
        "service_accounts: [{name: ci, public_key: ../globex/ci.pem, audiences: [a]}]\n",
        "3:43: '../globex/ci.pem' is not the name of a file in the secrets folder (letters, digits, '.', '_', '-'; no leading '.', no '/')",
    ),
    "mode": (
        "mode: shadow\n",
        "3:7: 'shadow' is unknown here; expected 'enforce' or 'disabled', or {shadow: [policy, limits]}",
    ),
    "key that is no text": ("roles: {1: {}}\n", '3:9: the key 1 is not text in YAML; quote it: "1"'),
    "key that is a list": ("roles: {[a]: {}}\n", "3:9: a list or mapping cannot be a key; expected text"),
    "bare star in a list": (
        "deny: [{id: a, functions: [*], actions: [invoke]}]\n",
        '3:28: a bare * begins an alias in YAML; quote it: "*"',
    ),
    "bare star as key": ("functions:\n  *: {}\n", '4:3: a bare * begins an alias in YAML; quote it: "*"'),
    "anchor": ("roles: &r {}\n", "3:8: anchors (&r) are refused: write the value out"),
    "alias": ("roles: {}\ndeny: *r\n", "4:7: aliases (*r) are refused: write the value out; quote a *"),
    "tag": ("mode: !!str enforce\n", "3:7: tags (tag:yaml.org,2002:str) are refused; quote what shall be text"),
    "unspecific tag": ("mode: ! enforce\n", "3:7: tags (!) are refused; quote what shall be text"),
    "merge key": ("<<: {}\n", "3:1: merge keys (<<) are refused: write the values out"),
    "second document": ("---\nversion: 1\n", "3:1: a second document begins here; expected one document a file"),
    "tab": (
        "roles:\n\ta: {}\n",
        "4:1: not YAML: found character that cannot start any token while scanning for the next token; indent with spaces, never tabs, and quote text that starts with @, ` or %",
    ),
    "colon in text": (
        "mode: a: b\n",
        "3:8: not YAML: mapping values are not allowed in this context; check the indentation, and quote text that holds ': '",
    ),
    "control character": (
        "mode: a\x07b\n",
        "3:8: the character U+0007 may not stand in a policy file: it shows other than it reads",
    ),
    "NUL": (
        "mode: enforce\x00\n",
        "3:14: the character U+0000 may not stand in a policy file: it shows other than it reads",
    ),
    "line break that editors hide": (
        "# all is well\u2028mode: disabled\n",
        "3:14: the character U+2028 may not stand in a policy file: it shows other than it reads",
    ),
    "text that runs backwards": (
        "mode: enforce # \u202edelbasid\n",
        "3:17: the character U+202E may not stand in a policy file: it shows other than it reads",
    ),
    "text without width": (
        'roles: {r: {}}\nbindings: [{id: b, roles: [r], groups: ["ad\u200bmin"]}]\n',
        "4:44: the character U+200B may not stand in a policy file: it shows other than it reads",
    ),
    "lone carriage return": (
        "# quiet\rmode: disabled\n",
        "3:8: the character U+000D may not stand in a policy file: it shows other than it reads",
    ),
    "number too long": (
        f"limits: [{{id: a, per: ip, concurrent: {'9' * 5000}}}]\n",
        "3:39: a number of more than 18 digits; quote what is text",
    ),
}

LOGIN: Final = "identity: [{name: login, issuer: 'https://id.example', audiences: [a], algorithms: [RS256], claims: {groups: g}}]\n"

MISFITS: Final[dict[str, tuple[str, str]]] = {
    "unknown role in a binding": (
        LOGIN
        + "roles: {admin: {allow: [{functions: [x], actions: [invoke]}]}}\nbindings: [{id: b, roles: [admni], groups: [x]}]\n",
        "5:28: the role 'admni' is unknown; did you mean 'admin'?",
    ),
    "unknown role included": ("roles: {a: {includes: [zz]}}\n", "3:24: the role 'zz' is unknown; expected one of a"),
    "circle of one": ("roles: {a: {includes: [a]}}\n", "3:24: roles include each other in a circle: a -> a"),
    "circle": (
        "roles:\n  a: {includes: [b]}\n  b: {includes: [x, c]}\n  c: {includes: [b]}\n  x: {includes: []}\n",
        "5:21: roles include each other in a circle: b -> c -> b",
    ),
    "binding twice": (
        LOGIN
        + "roles: {a: {includes: []}}\nbindings:\n  - {id: b, roles: [a], groups: [x]}\n  - {id: b, roles: [a], groups: [x]}\n",
        "7:10: the binding 'b' stands here a second time, first at acme.yaml:6",
    ),
    "deny rule twice": (
        "deny:\n  - {id: d, functions: [x], actions: [invoke]}\n  - {id: d, functions: [y], actions: [invoke]}\n",
        "5:10: the deny rule 'd' stands here a second time, first at acme.yaml:4",
    ),
    "limit twice": (
        "limits:\n  - {id: l, per: ip, rate: 1/s}\n  - {id: l, per: ip, rate: 1/s}\n",
        "5:10: the limit 'l' stands here a second time, first at acme.yaml:4",
    ),
    "route twice": (
        "routes:\n  - {id: r, path: /a, function: x}\n  - {id: r, path: /b, function: x}\n",
        "5:10: the route 'r' stands here a second time, first at acme.yaml:4",
    ),
    "provider twice": (
        "identity:\n  - {name: p, issuer: 'https://a.example', audiences: [a], algorithms: [RS256]}\n  - {name: p, issuer: 'https://b.example', audiences: [a], algorithms: [RS256]}\n",
        "5:12: the provider 'p' stands here a second time, first at acme.yaml:4",
    ),
    "issuer twice": (
        "identity:\n  - {name: p, issuer: 'https://a.example', audiences: [a], algorithms: [RS256]}\n  - {name: q, issuer: 'https://a.example', audiences: [b], algorithms: [RS256]}\n",
        "5:23: the issuer 'https://a.example' stands here a second time, first at acme.yaml:4",
    ),
    "service account twice": (
        "service_accounts:\n  - {name: ci, public_key: a, audiences: [a]}\n  - {name: ci, public_key: b, audiences: [a]}\n",
        "5:12: the service account 'ci' stands here a second time, first at acme.yaml:4",
    ),
    "reserved provider": (
        "identity: [{name: anonymous, issuer: 'https://a.example', audiences: [a], algorithms: [RS256]}]\n",
        "3:19: the name 'anonymous' is Portero's own; expected another",
    ),
    "provider like an account": (
        "identity: [{name: service-account, issuer: 'https://a.example', audiences: [a], algorithms: [RS256]}]\n",
        "3:19: the name 'service-account' is Portero's own; expected another",
    ),
    "issuer over http": (
        "identity: [{name: p, issuer: 'http://a.example', audiences: [a], algorithms: [RS256]}]\n",
        "3:30: 'http://a.example' must be https: what came over plain http could be anybody's",
    ),
    "issuer over http on loopback": (
        "identity: [{name: p, issuer: 'http://127.0.0.1:99', audiences: [a], algorithms: [RS256]}]\n",
        "3:30: 'http://127.0.0.1:99' must be https: plain http is for the demo alone",
    ),
    "issuer with query": (
        "identity: [{name: p, issuer: 'https://a.example?x', audiences: [a], algorithms: [RS256]}]\n",
        "3:30: 'https://a.example?x' has a query; expected none",
    ),
    "issuer with empty fragment": (
        "identity: [{name: p, issuer: 'https://a.example#', audiences: [a], algorithms: [RS256]}]\n",
        "3:30: 'https://a.example#' has a fragment; expected none",
    ),
    "issuer with user": (
        "identity: [{name: p, issuer: 'https://u@a.example', audiences: [a], algorithms: [RS256]}]\n",
        "3:30: the address names a user before its host; expected none, such as https://id.acme.example/realms/acme",
    ),
    "issuer that is no URL": (
        "identity: [{name: p, issuer: accounts.example, audiences: [a], algorithms: [RS256]}]\n",
        "3:30: 'accounts.example' is no URL; expected such as https://id.acme.example/realms/acme",
    ),
    "keys over ftp": (
        "identity: [{name: p, issuer: 'https://a.example', jwks_uri: 'ftp://a.example/k', audiences: [a], algorithms: [RS256]}]\n",
        "3:61: 'ftp://a.example/k' is no URL; expected such as https://id.acme.example/realms/acme",
    ),
    "domain in capitals": (
        "identity: [{name: p, issuer: 'https://a.example', audiences: [a], algorithms: [RS256], email_domains: [Acme.example]}]\n",
        "3:104: 'Acme.example' is no domain in the spelling of the wire; expected such as acme.example",
    ),
    "account without key": (
        "service_accounts: [{name: ci, audiences: [a]}]\n",
        "3:20: expected either public_key or public_keys",
    ),
    "account with both kinds of keys": (
        "service_accounts: [{name: ci, public_key: a, public_keys: [b], audiences: [a]}]\n",
        "3:20: expected either public_key or public_keys",
    ),
    "account without audience": (
        "service_accounts: [{name: ci, public_key: a}]\n",
        "3:20: expected audiences; without it tokens meant for others would be believed",
    ),
    "subject of no provider": (
        LOGIN + "roles: {a: {includes: []}}\nbindings: [{id: b, roles: [a], subjects: ['logn|ana']}]\n",
        "5:43: the provider 'logn' is unknown; did you mean 'login'?",
    ),
    "binding of no account": (
        "roles: {a: {includes: []}}\nbindings: [{id: b, roles: [a], service_accounts: [ci]}]\n",
        "4:51: the service account 'ci' is unknown; none is defined",
    ),
    "group that nobody can have": (
        "roles: {a: {includes: []}}\nbindings: [{id: b, roles: [a], groups: [x]}]\n",
        "4:41: nobody can be in a group: no provider says where groups are (claims: {groups: …})",
    ),
    "address that nobody vouches for": (
        LOGIN + "roles: {a: {includes: []}}\nbindings: [{id: b, roles: [a], emails: [ana@acme.example]}]\n",
        "5:41: no provider may vouch for addresses of acme.example; expected it in a provider's email_domains",
    ),
    "everything public": (
        "functions: {'*': {access: public}}\n",
        "3:27: every function of the tenant, later ones too, would be public; if so, add i_mean_all: true",
    ),
    "i_mean_all without all": (
        "functions: {web: {access: public, i_mean_all: true}}\n",
        '3:35: i_mean_all belongs to "*" with access: public',
    ),
    "function that nothing leads to": (
        "functions: {web: {direct: false}}\n",
        "3:27: 'web' can never be reached: direct: false, and no route leads to it",
    ),
    "direct_url without template": (
        "functions: {web: {direct_url: true}}\n",
        "3:31: the backend has no direct_url in platform.yaml",
    ),
    "TRACE in a rule": (
        "roles: {a: {allow: [{functions: [x], actions: [invoke], methods: [GET, TRACE]}]}}\n",
        "3:72: TRACE can never match: it is refused before any rule is asked",
    ),
    "CONNECT in a route": (
        "routes: [{id: r, path: /a, function: x, methods: [CONNECT]}]\n",
        "3:51: CONNECT can never match: it is refused before any rule is asked",
    ),
    "methods that exclude each other": (
        "deny: [{id: d, functions: [x], actions: [invoke], methods: [GET], when: {methods: [POST]}}]\n",
        "3:83: the rule can never match: its methods are GET",
    ),
    "methods all excepted": (
        "deny: [{id: d, functions: [x], actions: [invoke], methods: [GET], unless: {methods: [POST, GET]}}]\n",
        "3:85: the rule can never match: its methods are GET",
    ),
    "empty condition": (
        "deny: [{id: d, functions: [x], actions: [invoke], when: {}}]\n",
        "3:57: nothing narrows the deny rule here; expected one of groups, source_ip, methods, path_prefix, time; for a rule that always holds leave 'when' out",
    ),
    "no network": (
        "deny: [{id: d, functions: [x], actions: [invoke], unless: {source_ip: [10.0.0.1/8]}}]\n",
        "3:71: '10.0.0.1/8' is no network; expected such as 10.0.0.0/8 or 2001:db8::/32; did you mean 10.0.0.0/8?",
    ),
    "no time zone": (
        "deny: [{id: d, functions: [x], actions: [invoke], when: {time: {zone: Mars/Phobos}}}]\n",
        "3:71: 'Mars/Phobos' is no time zone; expected a name such as Europe/Madrid or UTC",
    ),
    "window without time": (
        "deny: [{id: d, functions: [x], actions: [invoke], when: {time: {from: '08:00', to: '08:00'}}}]\n",
        "3:84: from and to are the same; leave both out for the whole day",
    ),
    "path of a route": (
        "routes: [{id: r, path: a, function: x}]\n",
        "3:24: 'a': a path starts with '/'",
    ),
    "reserved path": (
        "routes: [{id: r, path: /.portero/login, function: x}]\n",
        "3:24: paths under /.portero/ are reserved",
    ),
    "path of functions": (
        "routes: [{id: r, path: /function/x, function: y}]\n",
        "3:24: paths under /function/ are reserved",
    ),
    "path of functions, encoded": (
        "routes: [{id: r, path: /%66unction/x, function: y}]\n",
        "3:24: paths under /function/ are reserved",
    ),
    "path of later": (
        "routes: [{id: r, path: /async-function/x, function: y}]\n",
        "3:24: paths under /async-function/ are reserved",
    ),
    "parameter that the path lacks": (
        "routes: [{id: r, path: '/a/{b}', function: x, to: '/{c}'}]\n",
        "3:51: the path has no parameter {c}",
    ),
    "rest in to": (
        "routes: [{id: r, path: '/a/*', function: x, to: '/b/*'}]\n",
        "3:49: what /* of the path takes is appended by itself; leave /* out here",
    ),
    "same path": (
        "routes:\n  - {id: r, path: '/a/{b}', function: x}\n  - {id: s, path: '/a/{c}', function: y, methods: [GET]}\n",
        "5:19: takes the same requests as the route at acme.yaml:4; expected another path or other methods",
    ),
    "same path, switched off": (
        "routes:\n  - {id: r, path: /a, function: x, enabled: false}\n  - {id: s, path: /a, function: y}\n",
        "5:19: takes the same requests as the route at acme.yaml:4; expected another path or other methods",
    ),
    "any origin": (
        "routes: [{id: r, path: /a, function: x, cors: {origins: ['*']}}]\n",
        "3:58: '*' would let any site act for the caller; expected such as https://app.acme.example",
    ),
    "origin with a path": (
        "routes: [{id: r, path: /a, function: x, cors: {origins: ['https://a.example/']}}]\n",
        "3:58: 'https://a.example/' is never what a browser sends; write 'https://a.example'",
    ),
    "origin with its default port": (
        "routes: [{id: r, path: /a, function: x, cors: {origins: ['https://A.example:443']}}]\n",
        "3:58: 'https://A.example:443' is never what a browser sends; write 'https://a.example'",
    ),
    "two kinds of limit": (
        "limits: [{id: l, per: tenant, rate: 1/s, wakes: 1/s}]\n",
        "3:10: expected exactly one of rate, concurrent and wakes",
    ),
    "no kind of limit": ("limits: [{id: l, per: ip}]\n", "3:10: expected exactly one of rate, concurrent and wakes"),
    "burst of nothing": (
        "limits: [{id: l, per: ip, concurrent: 1, burst: 2}]\n",
        "3:42: burst belongs to rate and to nothing else",
    ),
    "failures at once": (
        "limits: [{id: l, per: identity-failure, concurrent: 1}]\n",
        "3:23: per: identity-failure counts failures over time; expected rate",
    ),
    "failures at a function": (
        "limits: [{id: l, per: identity-failure, rate: 1/s, functions: [x]}]\n",
        "3:52: who fails to identify has reached no function; expected no functions here",
    ),
    "failures twice": (
        "limits:\n  - {id: l, per: identity-failure, rate: 1/s}\n  - {id: m, per: identity-failure, rate: 1/s}\n",
        "5:18: expected one limit per identity-failure; the first is at acme.yaml:4",
    ),
    "wakes of somebody": (
        "limits: [{id: l, per: subject, wakes: 1/s}]\n",
        "3:23: one wake-up serves all who wait, whoever they are; expected per: tenant or per: function",
    ),
}
"""Sound by itself and wrong in what it names; the same form as above."""
