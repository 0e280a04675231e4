// Several issuers in one process, for Portero's tests. The first line of standard input is the configuration; when all
// of them listen, one line of JSON says where. It ends with its standard input, so that it never outlives its test.

import http from "node:http";
import readline from "node:readline";

import { Issuer } from "./issuer.mjs";

console.log = console.info = console.warn = console.error; // standard output is for the one line
const issuers = new Map();

const CONTROL = {
  "/counts": () => Object.fromEntries([...issuers].map(([name, issuer]) => [name, issuer.counts])),
  "/forget-counts": () => {
    for (const issuer of issuers.values()) issuer.counts = {};
    return {};
  },
  "/clients": ({ issuer, clients }) => issuer.set_clients(clients) ?? {},
  "/accounts": ({ issuer, accounts }) => {
    issuer.accounts = accounts;
    return {};
  },
  "/login-as": ({ issuer, sub }) => {
    issuer.login_as = sub ?? undefined;
    return {};
  },
  "/rotate": ({ issuer, how }) => ({ kid: issuer.rotate(how) }),
  "/revoke": ({ issuer, sub }) => ({ grants: issuer.revoke(sub) }),
  "/end-sessions": async ({ issuer, sub }) => ({ told: await issuer.end_sessions(sub) }),
  "/tell-logout": async ({ issuer, client_id, sub, sid }) => issuer.tell_logout(client_id, sub, sid ?? undefined),
  "/logouts": ({ issuer }) => ({ logouts: issuer.logouts }),
  "/fault": ({ issuer, path, ...fault }) => {
    issuer.faults.set(path, fault);
    return {};
  },
};

async function control(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const answer = (status, body) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(body));
  };
  try {
    const asked = JSON.parse(Buffer.concat(chunks).toString() || "{}");
    const issuer = issuers.get(asked.issuer);
    answer(200, await CONTROL[request.url]({ ...asked, issuer }));
  } catch (error) {
    answer(400, { error: error.message });
  }
}

async function main() {
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("close", () => process.exit(0));
  const [line] = await new Promise((resolve) => lines.once("line", (text) => resolve([text])));
  for (const settings of JSON.parse(line).issuers) {
    const issuer = new Issuer(settings);
    issuers.set(settings.name, issuer);
    await issuer.start();
  }
  const controls = http.createServer(control);
  await new Promise((resolve) => controls.listen(0, "127.0.0.1", resolve));
  const where = Object.fromEntries([...issuers].map(([name, issuer]) => [name, issuer.issuer]));
  process.stdout.write(`${JSON.stringify({ control: controls.address().port, issuers: where })}\n`);
}

await main();
