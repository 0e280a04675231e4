"""
Mistakes of identity: what follows ``version: 1`` and ``tenant: acme`` in acme.yaml -> ``line:column: message``, whole.

Lines and columns count from the file's begin.
"""
# ruff: noqa: E501  # a table of whole messages, one a line, as operators read them

from __future__ import annotations

from typing import Final

PROVIDER: Final = "identity: [{name: p, issuer: 'https://a.example', audiences: [a], algorithms: [RS256], "
WITH_LOGIN: Final = PROVIDER + "login: {client_id: c, "
WITH_INTROSPECTION: Final = PROVIDER + "introspection: {client_id: c, "
WITH_GROUPS: Final = PROVIDER + "claims: {groups: g}, groups: {"
A_ROLE: Final = "roles: {r: {allow: [{functions: [x], actions: [invoke]}]}}\n"

IDENTITY_MISTAKES: Final[dict[str, tuple[str, str | list[str]]]] = {
    "secret and key": (
        WITH_LOGIN + "client_secret: s, client_key: k.pem}}]\n",
        "3:128: client_secret and client_key are both given; expected one of them",
    ),
    "basic without secret": (
        WITH_LOGIN + "client_auth: client_secret_basic}}]\n",
        "3:123: client_secret_basic shows a secret; expected client_secret",
    ),
    "post with a key": (
        WITH_LOGIN + "client_key: k.pem, client_auth: client_secret_post}}]\n",
        "3:142: client_secret_post shows a secret; expected client_secret",
    ),
    "signature without key": (
        WITH_LOGIN + "client_secret: s, client_auth: private_key_jwt}}]\n",
        "3:141: private_key_jwt signs with a key; expected client_key",
    ),
    "none with a secret": (
        WITH_LOGIN + "client_secret: s, client_auth: none}}]\n",
        "3:141: none is for clients without a secret; leave client_secret or client_auth out",
    ),
    "none with a key": (
        WITH_LOGIN + "client_key: k.pem, client_auth: none}}]\n",
        "3:142: none is for clients without a secret; leave client_key or client_auth out",
    ),
    "client_auth unknown": (
        WITH_LOGIN + "client_auth: client_secret_jwt}}]\n",
        "3:123: 'client_secret_jwt' is unknown here; did you mean 'client_secret_post'? expected 'client_secret_basic', 'client_secret_post', 'private_key_jwt' or 'none'",
    ),
    "secret that leaves its folder": (
        WITH_LOGIN + "client_secret: ../globex/client}}]\n",
        "3:125: '../globex/client' is not the name of a file in the secrets folder (letters, digits, '.', '_', '-'; no leading '.', no '/')",
    ),
    "digests as a secret": (
        WITH_LOGIN + "client_secret: api-keys}}]\n",
        "3:125: the name 'api-keys' is Portero's own: the digests of API keys lie there",
    ),
    "digests as a key": (
        WITH_INTROSPECTION + "client_key: api-keys}}]\n",
        "3:130: the name 'api-keys' is Portero's own: the digests of API keys lie there",
    ),
    "client_id with a break": (
        PROVIDER + 'login: {client_id: "a\\nb"}}]\n',
        "3:107: 'a\\nb' is no client_id; expected visible ASCII as the provider has registered it",
    ),
    "scopes without openid": (
        WITH_LOGIN + "scopes: [email]}}]\n",
        "3:118: expected openid among the scopes: without it the provider does not say who has logged in",
    ),
    "no scopes": (
        WITH_LOGIN + "scopes: []}}]\n",
        "3:118: nothing is in it, so it could never match; expected at least one item",
    ),
    "scopes in one text": (
        WITH_LOGIN + "scopes: [openid email]}}]\n",
        [
            "3:118: expected openid among the scopes: without it the provider does not say who has logged in",
            "3:119: 'openid email' is no scope; expected one word an item, such as [openid, email]",
        ],
    ),
    "title too long": (
        WITH_LOGIN + f"title: {'t' * 81}}}}}]\n",
        "3:117: the text is too long; expected at most 80 characters",
    ),
    "par unknown": (
        WITH_LOGIN + "par: always}}]\n",
        "3:115: 'always' is unknown here; expected 'auto', 'require' or 'never'",
    ),
    "login that knows no such key": (
        WITH_LOGIN + "scope: [openid]}}]\n",
        "3:110: unknown key 'scope'; did you mean 'scopes'?",
    ),
    "introspection by nobody": (
        WITH_INTROSPECTION + "max_age: 5s}}]\n",
        "3:103: expected client_secret or client_key: a provider tells nobody about tokens who does not say who asks",
    ),
    "introspection by nobody, said": (
        WITH_INTROSPECTION + "client_auth: none}}]\n",
        "3:103: expected client_secret or client_key: a provider tells nobody about tokens who does not say who asks",
    ),
    "introspection believed for long": (
        WITH_INTROSPECTION + "client_secret: s, max_age: 2h}}]\n",
        "3:145: 2h is too long; expected at most 1h, for so long a revoked token would be believed",
    ),
    "two that introspect": (
        "identity:\n  - {name: p, issuer: 'https://a.example', audiences: [a], algorithms: [RS256], introspection: {client_id: c, client_secret: s}}\n  - {name: q, issuer: 'https://b.example', audiences: [a], algorithms: [RS256], introspection: {client_id: c, client_secret: s}}\n",
        "5:81: expected one provider with introspection; the first is at acme.yaml:4, and an opaque token names none",
    ),
    "endpoint unknown": (
        PROVIDER + "endpoints: {tokens: 'https://a.example/t'}}]\n",
        "3:100: unknown key 'tokens'; did you mean 'token_endpoint'?",
    ),
    "endpoint of later": (
        PROVIDER + "endpoints: {jwks_uri: 'https://a.example/t'}}]\n",
        "3:100: unknown key 'jwks_uri'; expected one of authorization_endpoint, token_endpoint, userinfo_endpoint, introspection_endpoint, end_session_endpoint, pushed_authorization_request_endpoint, revocation_endpoint",
    ),
    "endpoint over http": (
        PROVIDER + "endpoints: {token_endpoint: 'http://a.example/t'}}]\n",
        "3:116: 'http://a.example/t' must be https: what came over plain http could be anybody's",
    ),
    "endpoint over http on loopback": (
        PROVIDER + "endpoints: {token_endpoint: 'http://127.0.0.1:1/t'}}]\n",
        "3:116: 'http://127.0.0.1:1/t' must be https: plain http is for the demo alone",
    ),
    "endpoint with user": (
        PROVIDER + "endpoints: {token_endpoint: 'https://u:p@a.example/t'}}]\n",
        "3:116: the address names a user before its host; expected none, such as https://id.acme.example/token",
    ),
    "endpoint with fragment": (
        PROVIDER + "endpoints: {authorization_endpoint: 'https://a.example/a?x=1#f'}}]\n",
        "3:124: 'https://a.example/a?x=1#f' has a fragment; expected none",
    ),
    "endpoint with dots": (
        PROVIDER + "endpoints: {userinfo_endpoint: 'https://a.example/a/../u'}}]\n",
        "3:119: 'https://a.example/a/../u' has dot segments in its path",
    ),
    "endpoint without host": (
        PROVIDER + "endpoints: {revocation_endpoint: /revoke}}]\n",
        "3:121: '/revoke' is no URL; expected such as https://id.acme.example/token",
    ),
    "endpoint in another scheme": (
        PROVIDER + "endpoints: {end_session_endpoint: 'javascript:alert(1)'}}]\n",
        "3:122: 'javascript:alert(1)' is no URL; expected such as https://id.acme.example/token",
    ),
    "endpoint with a backslash": (
        PROVIDER + "endpoints: {introspection_endpoint: 'https://a.example\\@b.example/'}}]\n",
        "3:124: 'https://a.example\\\\@b.example/' is no URL; expected such as https://id.acme.example/token",
    ),
    "bound tokens": (
        PROVIDER + "bound_tokens: true}]\n",
        "3:102: true is a truth value in YAML; expected 'accept' or 'require'",
    ),
    "groups that stand nowhere": (
        PROVIDER + "groups: {form: object_ids}}]\n",
        "3:88: nobody of this provider has groups: expected claims: {groups: …} beside it, which says where they stand",
    ),
    "groups all dropped": (
        WITH_GROUPS + "unnamed: drop}}]\n",
        "3:127: every group would be dropped; expected names: {…} with those that count",
    ),
    "groups fetched all the time": (
        WITH_GROUPS + "max_age: 1s}}]\n",
        "3:127: 1s is no age of groups; expected 30s to 24h",
    ),
    "groups never fetched again": (
        WITH_GROUPS + "max_age: 48h}}]\n",
        "3:127: 48h is no age of groups; expected 30s to 24h",
    ),
    "groups from elsewhere": (
        WITH_GROUPS + "from: graph}}]\n",
        "3:124: 'graph' is unknown here; expected 'id_token', 'access_token' or 'userinfo'",
    ),
    "object id that is none": (
        WITH_GROUPS + "form: object_ids, names: {analysts: analysts}}}]\n",
        "3:144: 'analysts' is no object id; expected such as 0f2e4bb1-95ac-4d1c-a6bc-2d6d39c8b1f7, or S-1-5-21-…",
    ),
    "DN that is none": (
        WITH_GROUPS + "form: distinguished_names, names: {'analysts': analysts}}}]\n",
        "3:153: 'analysts' is no distinguished name; expected such as CN=Analysts,OU=Groups,DC=acme,DC=example",
    ),
    "DN with an open escape": (
        WITH_GROUPS + "form: distinguished_names, names: {'CN=a\\': analysts}}}]\n",
        "3:153: 'CN=a\\\\' is no distinguished name; expected such as CN=Analysts,OU=Groups,DC=acme,DC=example",
    ),
    "name that is blank": (
        WITH_GROUPS + "names: {' ': analysts}, unnamed: drop}}]\n",
        "3:126: ' ' is no name of a group; expected at most 256 printable characters",
    ),
    "one group, two names": (
        WITH_GROUPS + "form: distinguished_names, names: {'CN=a,DC=x': one, 'cn=A, dc=X': two}}}]\n",
        "3:171: 'cn=A, dc=X' is the group 'CN=a,DC=x', which is called 'one' already",
    ),
    "name with blanks": (
        WITH_GROUPS + "form: object_ids, names: {0F2E4BB1-95AC-4D1C-A6BC-2D6D39C8B1F7: ' x'}}}]\n",
        "3:182: ' x' is no name of a group; expected at most 256 printable characters, without blanks around",
    ),
    "binding of a DN in another spelling": (
        WITH_GROUPS
        + "form: distinguished_names}}]\n"
        + A_ROLE
        + "bindings: [{id: b, roles: [r], groups: ['CN=Analysts,DC=acme']}]\n",
        "5:41: nobody can be in the group 'CN=Analysts,DC=acme': no provider has one of that name (groups: {names: …}); did you mean 'cn=analysts,dc=acme'?",
    ),
    "binding of a group that has another name": (
        WITH_GROUPS
        + "form: object_ids, names: {0f2e4bb1-95ac-4d1c-a6bc-2d6d39c8b1f7: analysts}}}]\n"
        + A_ROLE
        + "bindings: [{id: b, roles: [r], groups: [0f2e4bb1-95ac-4d1c-a6bc-2d6d39c8b1f7]}]\n",
        "5:41: nobody can be in the group '0f2e4bb1-95ac-4d1c-a6bc-2d6d39c8b1f7': no provider has one of that name (groups: {names: …}); did you mean 'analysts'?",
    ),
    "binding of a name where ids come": (
        WITH_GROUPS + "form: object_ids}}]\n" + A_ROLE + "bindings: [{id: b, roles: [r], groups: [analysts]}]\n",
        "5:41: nobody can be in the group 'analysts': no provider has one of that name (groups: {names: …})",
    ),
    "binding of what is dropped": (
        WITH_GROUPS
        + "names: {'ACME\\analysts': analysts}, unnamed: drop}}]\n"
        + A_ROLE
        + "bindings: [{id: b, roles: [r], groups: [analyst]}]\n",
        "5:41: nobody can be in the group 'analyst': no provider has one of that name (groups: {names: …})",
    ),
    "binding with blanks": (
        WITH_GROUPS + "form: names}}]\n" + A_ROLE + "bindings: [{id: b, roles: [r], groups: ['analysts ']}]\n",
        "5:41: nobody can be in the group 'analysts ': no provider has one of that name (groups: {names: …}); did you mean 'analysts'?",
    ),
    "deny of a group that nobody has": (
        WITH_GROUPS
        + "form: object_ids}}]\n"
        + "deny: [{id: d, functions: [x], actions: [invoke], when: {groups: [guests]}}]\n",
        "4:67: nobody can be in the group 'guests': no provider has one of that name (groups: {names: …})",
    ),
    "discovery instead of an issuer": (
        "identity: [{name: a, issuer: 'https://id.example/.well-known/x', audiences: [x], algorithms: [ES256]}]\n",
        "3:30: 'https://id.example/.well-known/x' is where the provider describes itself; expected its issuer, as it stands there",
    ),
    "sessions without login": (
        "sessions: {store: redis}\n",
        "3:1: nobody can have a session: expected login: {…} at one of the providers in identity",
    ),
    "idle beyond absolute": (
        WITH_LOGIN + "client_secret: s}}]\nsessions: {idle: 2h, absolute: 1h}\n",
        "4:18: a session ends after 1h and so before 2h without use; expected idle <= absolute",
    ),
    "idle beyond the usual absolute": (
        WITH_LOGIN + "client_secret: s}}]\nsessions: {idle: 24h}\n",
        "4:18: a session ends after 12h and so before 24h without use; expected idle <= absolute",
    ),
    "absolute too short": (
        WITH_LOGIN + "client_secret: s}}]\nsessions: {absolute: 1m}\n",
        "4:22: 1m is too short; expected at least 2m",
    ),
    "idle too short": (
        WITH_LOGIN + "client_secret: s}}]\nsessions: {idle: 30s}\n",
        "4:18: 30s is too short; expected at least 2m",
    ),
    "absolute too long": (
        WITH_LOGIN + "client_secret: s}}]\nsessions: {absolute: 1000h}\n",
        "4:22: 1000h is too long; expected at most 720h",
    ),
    "idle without a unit": (
        WITH_LOGIN + "client_secret: s}}]\nsessions: {idle: 3600}\n",
        "4:18: 3600 is not a duration of at least 1 such as 500ms, 30s, 5m or 1h",
    ),
    "store unknown": (
        WITH_LOGIN + "client_secret: s}}]\nsessions: {store: memory}\n",
        "4:19: 'memory' is unknown here; expected 'cookie' or 'redis'",
    ),
    "tokens for long": ("token_lifetime: 2h\n", "3:17: 2h is no lifetime of tokens; expected 10s to 1h"),
    "tokens for nothing": ("token_lifetime: 1s\n", "3:17: 1s is no lifetime of tokens; expected 10s to 1h"),
    "API key twice": (
        "api_keys:\n  - {name: k}\n  - {name: k}\n",
        "5:12: the API key 'k' stands here a second time, first at acme.yaml:4",
    ),
    "API key that expires some day": (
        "api_keys: [{name: k, expires: soon}]\n",
        "3:31: 'soon' is no instant; expected such as 2027-06-30 or 2027-06-30T12:00:00Z",
    ),
    "API key that expires on no day": (
        "api_keys: [{name: k, expires: 2027-02-30}]\n",
        "3:31: '2027-02-30' is no instant; expected such as 2027-06-30 or 2027-06-30T12:00:00Z",
    ),
    "API key that expires in no zone": (
        "api_keys: [{name: k, expires: '2027-06-30T12:00:00'}]\n",
        "3:31: '2027-06-30T12:00:00' is no instant; expected such as 2027-06-30 or 2027-06-30T12:00:00Z",
    ),
    "API key that expires in a week": (
        "api_keys: [{name: k, expires: 2027-W26}]\n",
        "3:31: '2027-W26' is no instant; expected such as 2027-06-30 or 2027-06-30T12:00:00Z",
    ),
    "API key with a bar": (
        "api_keys: [{name: 'a|b'}]\n",
        "3:19: 'a|b' is not a name of letters, digits, '.', '_' and '-' (at most 63, the first a letter or digit)",
    ),
    "binding of no API key": (
        A_ROLE + "api_keys: [{name: reporting}]\nbindings: [{id: b, roles: [r], subjects: ['api-key|reportin']}]\n",
        "5:43: the API key 'reportin' is unknown; did you mean 'reporting'?",
    ),
    "provider like an API key": (
        PROVIDER.replace("name: p", "name: api-key") + "}]\n",
        "3:19: the name 'api-key' is Portero's own; expected another",
    ),
    "assertion": ("functions: {web: {assertion: no}}\n", "3:30: 'no' is text in YAML 1.2; write false"),
}
