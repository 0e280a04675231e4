// The issuer's two pages that a person sees. Plain forms without script, so that a scripted client can post them too.

const escape = (text) => String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const page = (title, body) => `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>${escape(title)}</title>
<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:24rem;margin:3rem auto;padding:0 1rem}
button{font:inherit;display:block;width:100%;margin:.5rem 0;padding:.6rem}</style></head>
<body><h1>${escape(title)}</h1>
${body}
</body></html>
`;

export function login_page(issuer, action, accounts, client) {
  const buttons = Object.keys(accounts)
    .map((sub) => `<button name="login" value="${escape(sub)}">${escape(accounts[sub].name ?? sub)}</button>`)
    .join("\n");
  const deny = '<button name="deny" value="yes">Do not log in</button>';
  const form = `<form method="post" action="${escape(action)}">\n${buttons}\n${deny}\n</form>`;
  return page(`Log in at ${issuer}`, `<p>${escape(client)} asks who you are.</p>\n${form}`);
}

export function logout_page(form) {
  const buttons = `<button form="op.logoutForm" name="logout" value="yes">Log out</button>
<button form="op.logoutForm">Stay</button>`;
  return page("Log out?", `${form}\n${buttons}`);
}

export const text_page = (title, text) => page(title, `<p>${escape(text)}</p>`);
