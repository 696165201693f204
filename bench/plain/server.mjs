// The comparator of warm invocations: the same handler behind a plain HTTP server, without any platform.
// Usage: server.mjs FOLDER_OF_THE_HANDLER; prints the port it listens on.
import { createServer } from "node:http";

const { handler } = await import(process.argv[2] + "/index.mjs");

const server = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", async () => {
    const body = JSON.stringify(await handler(JSON.parse(Buffer.concat(parts))));
    response.writeHead(200, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
    response.end(body);
  });
});
server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
