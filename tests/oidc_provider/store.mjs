// What an issuer remembers, in memory: oidc-provider's adapter over one Map an issuer, so that the issuer can be built
// anew with other keys while logins, grants and tokens go on, and so that the control can look into it.

const GRANTABLE = new Set(["AccessToken", "AuthorizationCode", "RefreshToken"]);

export class Store {
  #rows = new Map(); // "Model:id" -> {payload, expires_at in ms}

  adapter() {
    const store = this;
    return class Adapter {
      constructor(model) {
        this.model = model;
      }
      async upsert(id, payload, expires_in_s) {
        store.put(this.model, id, payload, expires_in_s);
      }
      async find(id) {
        return store.get(this.model, id);
      }
      async findByUid(uid) {
        return store.all(this.model).find((payload) => payload.uid === uid);
      }
      async findByUserCode() {
        return undefined;
      }
      async consume(id) {
        const payload = store.get(this.model, id);
        if (payload) payload.consumed = Math.floor(Date.now() / 1000);
      }
      async destroy(id) {
        store.remove(this.model, id);
      }
      async revokeByGrantId(grant_id) {
        store.remove_grant(grant_id);
      }
    };
  }

  put(model, id, payload, expires_in_s) {
    const expires_at = expires_in_s ? Date.now() + (expires_in_s + 60) * 1000 : Infinity;
    this.#rows.set(`${model}:${id}`, { payload, expires_at });
  }

  get(model, id) {
    const row = this.#rows.get(`${model}:${id}`);
    return row && row.expires_at > Date.now() ? row.payload : undefined;
  }

  all(model) {
    const now = Date.now();
    return [...this.#rows]
      .filter(([key, row]) => key.startsWith(`${model}:`) && row.expires_at > now)
      .map(([, row]) => row.payload);
  }

  remove(model, id) {
    this.#rows.delete(`${model}:${id}`);
  }

  // All tokens and codes of one grant; the grant itself stays, as with oidc-provider's own adapter.
  remove_grant(grant_id) {
    for (const [key, { payload }] of this.#rows) {
      if (payload.grantId === grant_id && GRANTABLE.has(key.slice(0, key.indexOf(":")))) this.#rows.delete(key);
    }
  }
}
