// One issuer on one port of 127.0.0.1: oidc-provider, configured from plain JSON (tests/fakes/oidc_provider.py says what
// may stand in it), with hands for what a test wants to happen: other keys, other claims, faults, an end of a session.

import crypto from "node:crypto";
import http from "node:http";

import { Provider } from "oidc-provider";

import { fetch_loopback } from "./outgoing.mjs";
import { login_page, logout_page, text_page } from "./pages.mjs";
import { Store } from "./store.mjs";

const RESOURCE = "urn:portero:resource";
const CLAIMS = ["sub", "name", "email", "email_verified", "groups", "organization"];
const MAX_FORM_BYTES = 16 * 1024;

const KEY_FORMS = {
  ES256: ["ec", { namedCurve: "P-256" }],
  RS256: ["rsa", { modulusLength: 2048 }],
  EdDSA: ["ed25519", {}],
};

function make_key(algorithm) {
  const [kind, options] = KEY_FORMS[algorithm];
  const jwk = crypto.generateKeyPairSync(kind, options).privateKey.export({ format: "jwk" });
  return { ...jwk, kid: crypto.randomBytes(9).toString("base64url"), use: "sig", alg: algorithm };
}

export class Issuer {
  constructor(settings) {
    this.settings = settings;
    this.accounts = settings.accounts;
    this.store = new Store();
    this.keys = [make_key(settings.algorithm)];
    this.counts = {};
    this.faults = new Map(); // path -> {delay_ms, status, body, times}
    this.logouts = [];
    this.login_as = settings.login_as;
    this.server = http.createServer((request, response) => this.#answer(request, response));
  }

  async start() {
    await new Promise((resolve) => this.server.listen(this.settings.port, "127.0.0.1", resolve));
    this.issuer = `http://127.0.0.1:${this.server.address().port}`;
    this.set_clients(this.settings.clients);
    this.#build();
  }

  stop() {
    this.server.close();
    this.server.closeAllConnections();
  }

  // ---- what a test may ask for

  set_clients(clients) {
    for (const client of clients) this.store.put("Client", client.client_id, client);
  }

  // announce: published, not yet signing; sign: signing from now on, the old ones stay published; replace: alone.
  rotate(how) {
    if (how === "sign" && this.announced) {
      this.keys = [this.announced, ...this.keys.filter((key) => key !== this.announced)];
      this.announced = undefined;
    } else {
      const key = make_key(this.settings.algorithm);
      if (how === "announce") this.announced = key;
      this.keys = { announce: [...this.keys, key], sign: [key, ...this.keys], replace: [key] }[how];
    }
    this.#build();
    return (this.announced ?? this.keys[0]).kid;
  }

  revoke(sub) {
    const grants = this.store.all("Grant").filter((grant) => grant.accountId === sub);
    for (const grant of grants) {
      this.store.remove_grant(grant.jti);
      this.store.remove("Grant", grant.jti);
    }
    return grants.length;
  }

  // Ends every session of a person here, and tells the clients by the back channel.
  async end_sessions(sub) {
    const told = [];
    for (const session of this.store.all("Session").filter((one) => one.accountId === sub)) {
      this.store.remove("Session", session.jti);
      for (const [client_id, { sid }] of Object.entries(session.authorizations ?? {})) {
        told.push(await this.tell_logout(client_id, sub, sid));
      }
    }
    return told;
  }

  async tell_logout(client_id, sub, sid) {
    const client = await this.provider.Client.find(client_id);
    if (!client?.backchannelLogoutUri) return { client_id, sub, sid, told: false };
    try {
      await client.backchannelLogout(sub, sid);
      return { client_id, sub, sid, told: true, status: 200 };
    } catch (error) {
      return { client_id, sub, sid, told: true, status: error.response?.status ?? null, error: error.message };
    }
  }

  // ---- how it answers

  count(what) {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  async #answer(request, response) {
    const { pathname } = new URL(request.url, this.issuer);
    this.count(pathname.replace(/^\/interaction\/.*/, "/interaction").replace(/^\/auth\/.*/, "/auth (resumed)"));
    const fault = this.faults.get(pathname);
    if (fault && fault.times-- > 0) {
      if (fault.delay_ms) await new Promise((resolve) => setTimeout(resolve, fault.delay_ms));
      if (fault.status) {
        response.writeHead(fault.status, { "content-type": "application/json" });
        response.end(fault.body ?? "{}");
        return;
      }
    }
    if (!pathname.startsWith("/interaction/")) {
      this.provider.callback()(request, response);
      return;
    }
    try {
      await this.#interact(request, response, pathname);
    } catch (error) {
      response.writeHead(400, { "content-type": "text/html; charset=utf-8" });
      response.end(text_page("This login is over", error.error_description ?? error.message));
    }
  }

  async #interact(request, response, pathname) {
    const { params, prompt } = await this.provider.interactionDetails(request, response);
    const hint = Object.hasOwn(this.accounts, params.login_hint ?? "") ? params.login_hint : undefined;
    const form = request.method === "POST" ? await read_form(request) : undefined;
    if (form?.has("deny")) {
      const result = { error: "access_denied", error_description: "whoever it was said no" };
      await this.provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
      return;
    }
    const chosen = form ? form.get("login") : this.login_as ?? hint;
    if (chosen && Object.hasOwn(this.accounts, chosen)) {
      const result = { login: { accountId: chosen } };
      await this.provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
      return;
    }
    if (request.method === "POST") throw new Error("nobody by that name");
    response.writeHead(200, { "content-type": "text/html; charset=utf-8", "cache-control": "no-store" });
    response.end(login_page(this.settings.name, pathname, this.accounts, `${params.client_id} (${prompt.name})`));
  }

  // ---- what it is

  #build() {
    const provider = new Provider(this.issuer, this.#configuration());
    provider.on("server_error", (_, error) => console.error(`${this.settings.name}: ${error.stack}`));
    provider.on("grant.success", (ctx) => this.count(`${ctx.oidc.params.grant_type} granted`));
    provider.on("grant.error", (ctx, error) => this.count(`${ctx.oidc.params?.grant_type} ${error.error}`));
    provider.on("backchannel.success", (_, client, sub, sid) =>
      this.logouts.push({ client_id: client.clientId, sub, sid, status: 200 }));
    provider.on("backchannel.error", (_, error, client, sub, sid) =>
      this.logouts.push({ client_id: client.clientId, sub, sid, status: error.response?.status ?? null }));
    this.provider = provider;
  }

  #claims(sub, use) {
    return use === "id_token" && !this.settings.id_token_claims ? { sub } : { sub, ...this.accounts[sub] };
  }

  #resource_server() {
    const { audience, access_tokens, algorithm, ttl } = this.settings;
    return {
      scope: "invoke",
      audience,
      accessTokenTTL: ttl.access_token,
      accessTokenFormat: access_tokens === "jwt" ? "jwt" : "opaque",
      jwt: { sign: { alg: algorithm } },
    };
  }

  async #grant(ctx) {
    const { client, session, provider, resourceServers, result } = ctx.oidc;
    const known = result?.consent?.grantId ?? session.grantIdFor(client.clientId);
    const grant =
      (known && (await provider.Grant.find(known))) ||
      new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope("openid profile email groups offline_access");
    grant.addOIDCClaims(CLAIMS);
    for (const resource of Object.keys(resourceServers ?? {})) grant.addResourceScope(resource, "invoke");
    await grant.save();
    return grant;
  }

  #features() {
    const { par, dpop_nonce, mtls, name } = this.settings;
    const issuer = this;
    return {
      devInteractions: { enabled: false },
      deviceFlow: { enabled: false },
      clientCredentials: { enabled: true },
      backchannelLogout: { enabled: true },
      introspection: { enabled: true, allowedPolicy: (_, client) => client.clientAuthMethod !== "none" },
      revocation: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: async (ctx, form) => void (ctx.body = logout_page(form)),
        postLogoutSuccessSource: async (ctx) => void (ctx.body = text_page("Logged out", `You have left ${name}.`)),
      },
      pushedAuthorizationRequests: {
        enabled: par !== "none",
        requirePushedAuthorizationRequests: par === "require",
      },
      dPoP: {
        enabled: true,
        nonceSecret: dpop_nonce ? crypto.createHash("sha256").update(this.issuer).digest() : undefined,
        requireNonce: () => dpop_nonce,
      },
      mTLS: {
        enabled: mtls,
        certificateBoundAccessTokens: mtls,
        // Over plain http on loopback: the test puts the certificate, percent-encoded PEM, into a header field.
        getCertificate: (ctx) => decodeURIComponent(ctx.get("client-cert")) || undefined,
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: async () => (this.settings.access_tokens === "userinfo" ? undefined : RESOURCE),
        useGrantedResource: async () => true,
        getResourceServerInfo: async () => issuer.#resource_server(),
      },
    };
  }

  #configuration() {
    const { algorithm, ttl, rotates_refresh_tokens, ends_tokens_with_session } = this.settings;
    const { port } = this.server.address();
    return {
      adapter: this.store.adapter(),
      jwks: { keys: this.keys },
      clientAuthMethods: ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"],
      clientDefaults: {
        grant_types: ["authorization_code", "refresh_token"],
        id_token_signed_response_alg: algorithm,
        response_types: ["code"],
        token_endpoint_auth_method: "client_secret_basic",
      },
      enabledJWA: { idTokenSigningAlgValues: [algorithm], userinfoSigningAlgValues: [algorithm] },
      scopes: ["openid", "offline_access", "profile", "email", "groups"],
      claims: { openid: CLAIMS, acr: null, auth_time: null, iss: null, sid: null },
      conformIdTokenClaims: false,
      responseTypes: ["code"],
      pkce: { required: () => true },
      // Browsers tell cookies apart by host and not by port: several issuers on one address need names of their own.
      cookies: {
        keys: [crypto.createHash("sha256").update(`cookies of ${this.issuer}`).digest("base64url")],
        names: { session: `_session_${port}`, interaction: `_interaction_${port}`, resume: `_resume_${port}` },
      },
      features: this.#features(),
      findAccount: async (_, sub) =>
        Object.hasOwn(this.accounts, sub)
          ? { accountId: sub, claims: async (use) => this.#claims(sub, use) }
          : undefined,
      extraTokenClaims: async (_, token) =>
        token.kind === "ClientCredentials"
          ? this.settings.client_claims[token.clientId]
          : this.settings.access_token_claims && this.accounts[token.accountId],
      loadExistingGrant: (ctx) => this.#grant(ctx),
      interactions: { url: async (_, interaction) => `/interaction/${interaction.uid}` },
      issueRefreshToken: async (_, client) => client.grantTypeAllowed("refresh_token"),
      rotateRefreshToken: rotates_refresh_tokens,
      expiresWithSession: async () => ends_tokens_with_session,
      renderError: async (ctx, out) => {
        ctx.type = "html";
        ctx.body = text_page("This cannot be", Object.values(out).join(": "));
      },
      fetch: fetch_loopback,
      ttl: {
        AccessToken: ttl.access_token,
        AuthorizationCode: ttl.code,
        ClientCredentials: ttl.access_token,
        Grant: ttl.refresh_token,
        IdToken: ttl.id_token,
        Interaction: 600,
        RefreshToken: ttl.refresh_token,
        Session: ttl.session,
      },
    };
  }
}

async function read_form(request) {
  let text = "";
  for await (const chunk of request) {
    text += chunk;
    if (text.length > MAX_FORM_BYTES) throw new Error("form too large");
  }
  return new URLSearchParams(text);
}
