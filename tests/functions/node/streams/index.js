// Answers in pieces, as each event asks for it.
const { pipeline } = require('stream/promises');
const { Readable } = require('stream');

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
let written = 0;
let meet;
let met = new Promise((resolve) => { meet = resolve; });

function* bytes(length) {
  for (let at = 0; at < length; at += 50_000) {
    const piece = Buffer.alloc(Math.min(50_000, length - at), at % 251);
    written += piece.length;
    yield piece;
  }
}

const asks = {
  // Its second piece is made when another call has come.
  async meet(event, stream) {
    stream.write('first');
    await met;
    met = new Promise((resolve) => { meet = resolve; });
    stream.end('last');
  },
  async go(event, stream) {
    meet();
    stream.end('went');
  },
  async bytes(event, stream) {
    await pipeline(Readable.from(bytes(event.bytes)), stream);
  },
  // Does not ask whether it may: everything waits in this process.
  async pushes(event, stream) {
    for (const piece of bytes(event.bytes)) stream.write(piece);
    stream.end();
  },
  async small(event, stream) {
    for (let i = 0; i < event.pieces; i++) stream.write(i + ',');
    stream.end();
  },
  async written(event, stream) {
    stream.end(String(written));
  },
  async forever(event, stream) {
    stream.write('first');
    for (;;) {
      await sleep(event.every);
      stream.write('more');
    }
  },
  async silent(event, stream) {
    stream.write('first');
    await sleep(60_000);
  },
  async throws(event, stream) {
    stream.write('half');
    await sleep(50);
    throw new RangeError('as asked');
  },
  async throws_first() {
    throw new RangeError('as asked');
  },
  async exits(event, stream) {
    stream.write('half');
    await sleep(50);
    process.exit(3);
  },
  async forgets(event, stream) {
    stream.write('all of it');
  },
  async types(event, stream) {
    stream.setContentType('text/x-own');
    stream.write({ json: [1] });
    stream.end(Buffer.from(' bytes'));
  },
  async http(event, stream) {
    const answer = awslambda.HttpResponseStream.from(stream, event.prelude);
    if (event.body !== undefined) answer.write(event.body);
    answer.end();
  },
  async echo(event, stream) {
    stream.end(event.text);
  },
};

exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  // Through a function URL the wish is the body.
  const wish = event.requestContext ? JSON.parse(event.body) : event;
  await asks[wish.do](wish, stream, context);
});

// The request convention: a body that is an async iterable.
exports.web = async (request) => {
  const wish = JSON.parse(request.body || '{"do":"generator"}');
  switch (wish.do) {
    case 'generator':
      return {
        statusCode: 203,
        headers: { 'X-A': 'b', 'Content-Type': 'text/event-stream' },
        body: (async function* generate() {
          yield 'first';
          await met;
          met = new Promise((resolve) => { meet = resolve; });
          yield 'last';
        })(),
      };
    case 'go':
      meet();
      return 'went';
    case 'readable':
      return Readable.from(bytes(wish.bytes));
    case 'web':
      return { body: new Blob(['of the ', 'web']).stream() };
    case 'throws':
      return { body: (async function* half() { yield 'half'; await sleep(50); throw new RangeError('as asked'); })() };
    default:
      return { statusCode: 204, body: Readable.from(['nobody', ' reads', ' this']) };
  }
};
