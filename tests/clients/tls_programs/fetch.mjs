import { createHash } from "node:crypto";

// Versions before 22.21 and 24.5 know nothing of NODE_USE_ENV_PROXY: there the package undici heeds the variables.
if (process.env.WITH_UNDICI) {
  const { createRequire } = await import("node:module");
  const undici = createRequire(process.env.WITH_UNDICI)("undici");
  undici.setGlobalDispatcher(new undici.EnvHttpProxyAgent());
  globalThis.fetch = undici.fetch;
}
const [url, signal] = [process.argv[2], AbortSignal.timeout(30000)];
let answer = await fetch(`${url}/blob`, { signal });
console.log("GET", answer.status, createHash("sha256").update(Buffer.from(await answer.arrayBuffer())).digest("hex"), "-");
answer = await fetch(`${url}/echo`, { method: "POST", body: "sent by fetch", signal });
console.log("POST", answer.status, answer.headers.get("x-proxy-error"));
console.log(await answer.text());
process.exit(0);
