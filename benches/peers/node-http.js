// The floor: Node's own HTTP server with the echo handler, and nothing around it.
'use strict';
const http = require('node:http');

const handler = async (event) => ({ ok: true, event });

http.createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', async () => {
    const body = JSON.stringify(await handler(JSON.parse(Buffer.concat(pieces).toString())));
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) });
    response.end(body);
  });
}).listen(Number(process.argv[2]), '127.0.0.1');
