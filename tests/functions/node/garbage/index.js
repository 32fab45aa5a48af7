const fs = require('fs');
const lengths = (head, body) => { const b = Buffer.alloc(8); b.writeUInt32LE(head, 0); b.writeUInt32LE(body, 4); return b; };
const frame = (head, body = '') => Buffer.concat([lengths(Buffer.byteLength(head), body.length), Buffer.from(head + body)]);
// Writes what no worker may say on the channel; the body names it.
exports.handler = async (req) => {
  const say = {
    noise: () => Buffer.from('\xff\xfe\xfd this is no frame at all \x00\x01'.repeat(8), 'latin1'),
    huge_header: () => lengths(0xffffffff, 0),
    huge_body: () => Buffer.concat([lengths(14, 0xfffffff0), Buffer.from('{"t":"reply"}\n')]),
    not_json: () => frame('{"t":'),
    unknown: () => frame('{"t":"format_disk"}'),
    again_ready: () => frame('{"t":"ready","init_us":1,"version":"1"}'),
    foreign: () => frame('{"t":"reply","id":"00000000-0000-4000-8000-000000000000"}', 'for you'),
    deep: () => frame('{"t":' + '['.repeat(200000) + ']'.repeat(200000) + '}'),
    many: () => Buffer.concat(Array.from({ length: 5000 }, () => frame('{"t":"ready","init_us":1}'))),
    partial: () => lengths(100, 100),
  }[req.body]();
  for (let done = 0; done < say.length;) {
    try { done += fs.writeSync(3, say, done); } catch (e) { if (e.code !== 'EAGAIN') throw e; }
  }
  await new Promise((resolve) => setTimeout(resolve, 2 ** 31 - 1));
};
