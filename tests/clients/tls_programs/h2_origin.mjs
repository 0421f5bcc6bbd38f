// An origin that speaks HTTP/2 and HTTP/1.1: h2_origin CERTIFICATE KEY PAYLOAD PORT
import { readFileSync } from "node:fs";
import { createSecureServer } from "node:http2";

const [cert, key, payload] = process.argv.slice(2, 5).map(name => readFileSync(name));
const server = createSecureServer({ cert, key, allowHTTP1: true }, (request, response) => {
  if (request.method === "GET" && request.url === "/blob") return response.end(payload);
  request.pipe(response);
});
server.listen(Number(process.argv[5]), "127.0.0.1", () => console.error("listening"));
