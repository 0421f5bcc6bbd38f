import { createHash } from "node:crypto";
import { createRequire } from "node:module";

const axios = createRequire(process.env.WITH_AXIOS)("axios");
const url = process.argv[2];
const answer = await axios.get(`${url}/blob`, { responseType: "arraybuffer", timeout: 30000 });
console.log("GET", answer.status, createHash("sha256").update(answer.data).digest("hex"), "-");
try {
  await axios.post(`${url}/echo`, { "sent by": "axios" }, { timeout: 30000 });
} catch (error) {
  if (!error.response) throw error;
  console.log("POST", error.response.status, error.response.headers["x-proxy-error"]);
  console.log(JSON.stringify(error.response.data));
}
process.exit(0);
