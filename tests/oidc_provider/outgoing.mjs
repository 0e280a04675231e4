// Requests that an issuer sends (back-channel logout, clients' keys): only to loopback, names below localhost and test
// included, which no resolver is asked for. oidc-provider's own guard would refuse loopback altogether.

import http from "node:http";

const MAX_BYTES = 256 * 1024;
const TIMEOUT_MS = 2500;

const address_of = (hostname) =>
  /^(127\.\d+\.\d+\.\d+|localhost|.*\.(localhost|test))$/.test(hostname) ? "127.0.0.1" : undefined;

export function fetch_loopback(address, { method = "GET", headers, body } = {}) {
  const url = new URL(address);
  const connect_to = address_of(url.hostname);
  if (url.protocol !== "http:" || !connect_to) return Promise.reject(new Error(`not on loopback: ${url.host}`));
  const text = body === undefined ? undefined : String(body);
  const fields = { ...Object.fromEntries(new Headers(headers)), host: url.host };
  if (text !== undefined) fields["content-length"] = Buffer.byteLength(text);
  const options = { host: connect_to, port: url.port || 80, path: url.pathname + url.search, method, headers: fields };
  return new Promise((resolve, reject) => {
    const request = http.request({ ...options, agent: false, timeout: TIMEOUT_MS }, (answer) => {
      const chunks = [];
      let size = 0;
      answer.on("data", (chunk) => {
        size += chunk.length;
        if (size > MAX_BYTES) request.destroy(new Error("answer too large"));
        chunks.push(chunk);
      });
      answer.on("error", reject);
      answer.on("end", () => {
        const has_body = ![204, 304].includes(answer.statusCode);
        const headers = new Headers();
        for (const [name, value] of Object.entries(answer.headers)) headers.set(name, String(value));
        resolve(new Response(has_body ? Buffer.concat(chunks) : null, { status: answer.statusCode, headers }));
      });
    });
    request.on("timeout", () => request.destroy(new Error("no answer in time")));
    request.on("error", reject);
    request.end(text);
  });
}
