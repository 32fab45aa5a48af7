'use strict';

// The Node.js worker: the program that runs one function inside a box and answers the server's invocations on fd 3
// (docs/design/002-channel.md). It runs unchanged on Node 18 and newer, in two modes:
//
//   node --single-threaded --v8-pool-size=0 worker.cjs template <libjail.so>   warm up, then fork a worker per request
//   node worker.cjs boot [<libjail.so>]                                        be the worker
//
// It never chooses a box, enforces a deadline, retries, or limits a body: that is the server's part. It never opens a
// socket or file that a clone would share, and it never lets a function's failure look like its own.

// A template rehearses loading a function with this very file; to `require` it is nothing but a function.
if (require.main !== module) {
  exports.handler = async (event) => event;
  return;
}

const fs = require('fs');
// As they are now: what a function replaces in `fs` is its own affair.
const { readSync, writeSync, writevSync } = fs;
const net = require('net');
const path = require('path');
const url = require('url');
const { createRequire, Module } = require('module');
const { isNativeError, isAnyArrayBuffer } = require('util').types;
const logs = require('./logs.cjs');

const MAJOR = Number(process.versions.node.split('.')[0]);
const MISSING_LIBRARY = 78; // EX_CONFIG: tells the server to boot workers instead of cloning them

// What this process is at the moment. One object, so that a reader sees all the state there is.
const self = {
  stage: 'start', // start → template | loading → serving
  jail: null, // the native library, when there is one
  libraryError: '', // why there is none
  cloned: false, // a fork of a template: must leave by _exit
  load: null, // the `load` frame; `resume` renews its env, seed and function
  handler: null,
  call: null, // callEvent or callRequest
  solo: true, // one invocation at a time
  traced: false, // _X_AMZN_TRACE_ID is set
  watching: false, // the channel does not keep the loop alive: see "drained"
  active: new Map(), // id → Invocation
  waiting: [], // frames of invocations that came while another was under way, when there is one at a time
};

// ---------------------------------------------------------------------------------------------------------- connect

const CHANNEL = 3;
const CLAIMS = 4;
const HEADER_LIMIT = 1 << 20;
const EMPTY = Buffer.alloc(0);

// One buffer to read into and one to write from, both for the life of the process. They are not zeroed on purpose:
// pages that no message has touched cost a clone nothing.
const inbox = Buffer.allocUnsafeSlow(256 * 1024);
const outbox = Buffer.allocUnsafeSlow(64 * 1024);

let channel = null; // the libuv side of fd 3; never opened in a template, whose fd 3 belongs to the native library
let stash = null; // the start of a frame whose header has not fully arrived
let filling = null; // { header, body, have }: a frame whose body has not fully arrived

// The first frame of every process is read without the event loop: it is faster, and in a process that becomes a
// template nothing of libuv may ever touch fd 3.
function readFrame() {
  const lengths = readExactly(8);
  const headerLength = lengths.readUInt32LE(0);
  if (headerLength > HEADER_LIMIT) violation('a header of ' + headerLength + ' bytes');
  const header = parseHeader(readExactly(headerLength), 0, headerLength);
  readExactly(lengths.readUInt32LE(4));
  return header;
}

function readExactly(length) {
  const buffer = Buffer.allocUnsafeSlow(length);
  for (let have = 0; have < length; ) {
    const got = patiently(() => readSync(CHANNEL, buffer, have, length - have, null));
    if (got === 0) leave(0);
    have += got;
  }
  return buffer;
}

// Runs one system call on fd 3 to its end, whether or not the descriptor blocks.
function patiently(call) {
  for (;;) {
    try {
      return call();
    } catch (error) {
      if (error.code !== 'EAGAIN') leave(0); // the server is gone: nobody is left to tell
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

function openChannel() {
  channel = new net.Socket({
    fd: CHANNEL,
    readable: true,
    writable: true,
    onread: { buffer: inbox, callback: (length) => { received(length); return true; } },
  });
  const gone = () => leave(0);
  channel.on('end', gone).on('error', gone).on('close', gone);
}

// Takes `length` new bytes in `inbox` apart into frames. The common case, one whole frame, copies nothing.
function received(length) {
  let source = inbox;
  let at = 0;
  if (filling !== null) {
    at = fill(source, 0, length);
    if (filling !== null) return;
  }
  let end = length;
  if (stash !== null) {
    source = Buffer.concat([stash, inbox.subarray(0, length)]);
    end = source.length;
    stash = null;
  }
  while (at < end) {
    if (end - at < 8) return keep(source, at, end);
    const headerLength = source.readUInt32LE(at);
    const bodyLength = source.readUInt32LE(at + 4);
    const bodyAt = at + 8 + headerLength;
    if (headerLength > HEADER_LIMIT) violation('a header of ' + headerLength + ' bytes');
    if (bodyAt > end) return keep(source, at, end);
    const header = parseHeader(source, at + 8, bodyAt);
    at = bodyAt + bodyLength;
    if (at <= end) {
      accept(header, source, bodyAt, at);
    } else {
      filling = { header, body: Buffer.allocUnsafeSlow(bodyLength), have: 0 };
      fill(source, bodyAt, end);
      return;
    }
  }
}

function keep(source, from, to) {
  stash = Buffer.from(source.subarray(from, to));
}

function fill(source, from, to) {
  const frame = filling;
  const taken = source.copy(frame.body, frame.have, from, to);
  frame.have += taken;
  if (frame.have === frame.body.length) {
    filling = null;
    accept(frame.header, frame.body, 0, frame.have);
  }
  return from + taken;
}

function parseHeader(source, from, to) {
  try {
    return JSON.parse(source.toString('utf8', from, to));
  } catch {
    violation('a header that is not JSON');
  }
}

// Sends one frame with one system call when the socket takes it whole; what it does not take goes through libuv.
function send(head, body) {
  if (typeof body === 'string') {
    if ((head.length + body.length) * 3 + 8 <= outbox.length) {
      const headLength = outbox.write(head, 8);
      const bodyLength = outbox.write(body, 8 + headLength);
      outbox.writeUInt32LE(headLength, 0);
      outbox.writeUInt32LE(bodyLength, 4);
      return put(outbox, 8 + headLength + bodyLength, null);
    }
    body = Buffer.from(body);
  }
  const start = Buffer.allocUnsafe(8 + Buffer.byteLength(head));
  start.writeUInt32LE(start.length - 8, 0);
  start.writeUInt32LE(body.length, 4);
  start.write(head, 8);
  put(start, start.length, body);
}

let put = function putChannel(start, length, body) {
  let sent = 0;
  if (channel === null || channel.writableLength === 0) {
    try {
      sent = body === null ? writeSync(CHANNEL, start, 0, length) : writevSync(CHANNEL, [start, body]);
    } catch (error) {
      if (error.code !== 'EAGAIN') leave(0);
    }
  }
  const total = body === null ? length : length + body.length;
  if (sent === total) return;
  if (channel === null) return putRest(start.subarray(0, length), body, sent);
  // Copies, because both buffers may change before libuv gets to send them.
  if (sent < length) channel.write(Buffer.from(start.subarray(sent, length)));
  if (body !== null) channel.write(Buffer.from(body.subarray(Math.max(0, sent - length))));
};

function putRest(start, body, sent) {
  const rest = (body === null ? start : Buffer.concat([start, body])).subarray(sent);
  for (let done = 0; done < rest.length; ) {
    done += patiently(() => writeSync(CHANNEL, rest, done, rest.length - done));
  }
}

function violation(what) {
  log('the server sent ' + what + ' on the channel');
  leave(1);
}

// Ends the process without running exit handlers; a clone's would wait for threads that exist only in its template.
function leave(code) {
  process.reallyExit(code);
  throw new Error('the process is ending'); // not reached: says so to the reader and to callers that need a value
}

// ------------------------------------------------------------------------------------------------------------- load

class Fault extends Error {
  constructor(type, message, cause) {
    super(message);
    this.name = type;
    // Its own frames would be the worker's and Node's: only those of the code that caused it say anything.
    this.stack = typeof cause?.stack === 'string' ? cause.stack : `${type}: ${message}`;
  }
}

function setEnvironment(env) {
  for (const name of Object.keys(process.env)) if (!(name in env)) delete process.env[name];
  for (const name in env) if (process.env[name] !== env[name]) process.env[name] = env[name];
  // NODE_PATH (layers) was read when the process started, which for a clone was before it had this environment.
  if (Module._initPaths) Module._initPaths();
}

async function loadFunction(frame) {
  const root = process.env.LAMBDA_TASK_ROOT || '/var/task';
  const { directory, name, exported } = splitHandler(frame.handler);
  let found;
  try {
    found = await importFile(findFile(root, directory, name));
  } catch (error) {
    throw asLoadFault(error);
  }
  const handler = pick(found, exported) ?? pick(found?.default, exported);
  if (typeof handler !== 'function') {
    const what = handler ? 'not a function' : 'undefined or not exported';
    throw new Fault('Runtime.HandlerNotFound', `${frame.handler} is ${what}`);
  }
  if (MAJOR >= 24 && frame.convention === 'event' && handler.length >= 3 && !handler[STREAMING]) {
    throw new Fault('Runtime.CallbackHandlerDeprecated', CALLBACKS_ARE_GONE);
  }
  return handler;
}

const CALLBACKS_ARE_GONE =
  'ERROR: AWS Lambda has removed support for callback-based function handlers starting with Node.js 24. You need to ' +
  'modify this function to use a supported handler signature to use Node.js 24 or later. For more information see ' +
  'https://docs.aws.amazon.com/lambda/latest/dg/nodejs-handler.html.';

// `dir/file.export.nested`: the file ends at the first dot of the last segment, as on AWS.
function splitHandler(text) {
  if (text.includes('..')) {
    throw new Fault('Runtime.MalformedHandlerName',
      `'${text}' is not a valid handler name. Use absolute paths when specifying root directories in handler names.`);
  }
  const base = path.basename(text);
  const dot = base.indexOf('.');
  if (dot < 0) throw new Fault('Runtime.MalformedHandlerName', 'Bad handler');
  return {
    directory: text.slice(0, text.length - base.length),
    name: base.slice(0, dot),
    exported: base.slice(dot + 1),
  };
}

function findFile(root, directory, name) {
  const base = path.resolve(root, directory, name);
  for (const extension of ['.js', '.mjs', '.cjs']) if (fs.existsSync(base + extension)) return base + extension;
  for (const extension of ['.ts', '.mts', '.cts']) {
    if (!fs.existsSync(base + extension)) continue;
    if (process.features.typescript) return base + extension;
    throw new Fault('Runtime.ImportModuleError', `Error: ${name}${extension} is TypeScript, which Node.js ` +
      `${process.versions.node} cannot run: compile it to JavaScript before deploying it`);
  }
  try {
    const paths = [root, path.join(root, directory)];
    return createRequire(path.join(root, 'index.js')).resolve(directory ? './' + name : name, { paths });
  } catch {
    throw new Fault('Runtime.ImportModuleError', `Error: Cannot find module '${name}'\n` +
      `Looked for ${name}.js, ${name}.mjs and ${name}.cjs in ${path.dirname(base)}`);
  }
}

// CommonJS is loaded with `require`, which is synchronous and starts no threads; the rest with `import()`.
async function importFile(file) {
  const asModule = () => import(url.pathToFileURL(file).href);
  const extension = path.extname(file);
  if (extension === '.mjs' || extension === '.mts') return asModule();
  if ((extension === '.js' || extension === '.ts') && packageType(file) === 'module') return asModule();
  try {
    return createRequire(file)(file);
  } catch (error) {
    if (error?.code === 'ERR_REQUIRE_ASYNC_MODULE') return asModule(); // a module by its syntax, with top-level await
    throw error;
  }
}

function packageType(file) {
  for (let at = path.dirname(file); ; at = path.dirname(at)) {
    try {
      return JSON.parse(fs.readFileSync(path.join(at, 'package.json'), 'utf8')).type;
    } catch (error) {
      if (error.code !== 'ENOENT' || at === path.dirname(at)) return undefined;
    }
  }
}

function pick(found, names) {
  for (const name of names.split('.')) {
    if (found === null || (typeof found !== 'object' && typeof found !== 'function')) return undefined;
    found = found[name];
  }
  return found;
}

function asLoadFault(error) {
  if (error instanceof Fault) return error;
  if (error instanceof SyntaxError) return new Fault('Runtime.UserCodeSyntaxError', String(error), error);
  if (isNativeError(error) && error.code === 'MODULE_NOT_FOUND') { // and not ERR_MODULE_NOT_FOUND: as on AWS
    return new Fault('Runtime.ImportModuleError', String(error), error);
  }
  return error;
}

// ------------------------------------------------------------------------------------------------------------ ready

// Hooks for functions that are snapshotted: `offshoot.registerBeforeSnapshot(fn)`, `offshoot.registerAfterRestore(fn)`.
// AWS has none for Node.js; the names follow its Python ones.
const hooks = { before: [], after: [] };
Object.defineProperty(globalThis, 'offshoot', {
  configurable: true,
  writable: true,
  enumerable: false,
  value: {
    registerBeforeSnapshot: (hook) => { hooks.before.push(mustBeFunction(hook)); },
    registerAfterRestore: (hook) => { hooks.after.push(mustBeFunction(hook)); },
  },
});

function mustBeFunction(hook) {
  if (typeof hook !== 'function') throw new TypeError('a snapshot hook must be a function');
  return hook;
}

async function runHooks(list, faultType) {
  for (const hook of list) {
    try {
      await hook();
    } catch (error) {
      const shape = describe(error);
      throw new Fault(faultType, shape.errorType + ': ' + shape.errorMessage, error);
    }
  }
}

function sayReady(startedAt, extra) {
  const took = Math.round((performance.now() - startedAt) * 1000);
  send(`{"t":"ready","init_us":${took},"version":"${process.versions.node}"${extra}}`, '');
}

// V8 seeds Math.random once per context, so clones of one template would all draw the same numbers. Where clones may
// be made, Math.random is this generator (sfc32) from before any function is loaded, so that references to it that a
// function keeps are renewed too. A `vm` context has its own Math.random, which this cannot reach.
let reseedRandom = null;
function replaceRandom() {
  if (reseedRandom !== null) return;
  let a = 0, b = 0, c = 0, d = 1;
  const next = () => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + t | 0;
    return t;
  };
  Math.random = function random() {
    return ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992;
  };
  reseedRandom = (bytes) => {
    [a, b, c, d] = [bytes.readInt32LE(0), bytes.readInt32LE(4), bytes.readInt32LE(8), bytes.readInt32LE(12) | 1];
    for (let i = 0; i < 15; i++) next();
  };
  reseedRandom(require('crypto').randomBytes(16));
}

// Everything in which a fork would repeat its siblings: random numbers, identifiers, names and clocks of this process.
function renew(frame) {
  const seed = Buffer.from(frame.seed, 'hex');
  if (seed.length !== 32) violation('a seed that is not 32 bytes');
  self.jail.reseed(seed); // where OpenSSL would not notice the fork by the pid, which in a PID namespace is often the same
  reseedRandom(seed.subarray(16)); // OpenSSL is left alone until a function asks for it: waking it copies pages of the template
  const pid = Number(fs.readlinkSync('/proc/self'));
  Object.defineProperty(process, 'pid', { value: pid, writable: false, enumerable: true, configurable: true });
  const bornAt = performance.now();
  process.uptime = () => (performance.now() - bornAt) / 1000;
  process.title = frame.function?.name ? 'node ' + frame.function.name : 'node';
}

// Node keeps 128 UUIDs and 1024 random integers in store. A function that used them while loading leaves the rest of
// the store to all its clones; drawing as many as there can be makes Node fill it anew from the renewed generator.
function drainCrypto() {
  const { randomUUID, randomInt } = require('crypto');
  for (let i = 0; i < 128; i++) randomUUID();
  for (let i = 0; i < 1024; i++) randomInt(2);
}

// Becomes a template and returns only in its clones. Called from setImmediate: forking inside a poll callback would
// leave the child in the middle of its parent's list of ready descriptors.
function forkClones() {
  self.stage = 'template';
  self.jail.waitAndFork();
  self.cloned = true;
  // Node's own exit waits, for ever, for threads that only the template has.
  process.reallyExit = (code) => self.jail.exit(Number(code) || 0);
  self.stage = 'loading';
}

// ------------------------------------------------------------------------------------------------------------- loop

class Invocation {
  constructor({ id, trace, stream }) {
    this.id = id;
    this.trace = trace;
    this.window = stream; // how much of an answer in pieces may be on its way; undefined: it has to come whole
    this.stream = null; // the answer in pieces, once there is one
    this.done = false;
    this.began = performance.now();
    this.parked = undefined; // { result }: called back, waiting for the event loop to drain
    this.context = null;
  }
}

function accept(header, source, from, to) {
  if (header.t === 'more') return void self.active.get(header.id)?.stream?.widen(header.bytes);
  if (header.t !== 'invoke') violation('an unexpected frame "' + header.t + '"');
  if (self.solo && self.active.size > 0) {
    // A copy: the inbox is read into again before its turn comes.
    self.waiting.push({ header, body: Buffer.from(source.subarray(from, to)) });
  } else {
    begin(header, source, from, to);
    if (self.waiting.length > 0) beginWaiting();
  }
}

// Those that came meanwhile, until one of them does not answer at once.
function beginWaiting() {
  while (self.active.size === 0 && self.waiting.length > 0) {
    const { header, body } = self.waiting.shift();
    begin(header, body, 0, body.length);
  }
}

function begin(header, source, from, to) {
  if (header.claim === true && !claim()) return send('{"t":"skipped","id":' + JSON.stringify(header.id) + '}', '');
  const invocation = new Invocation(header);
  self.active.set(header.id, invocation);
  logs.within(header.id, header.trace, () => self.call(invocation, header, source, from, to));
  // While a single invocation is under way the channel does not keep the event loop alive, so Node itself says when
  // nothing is left that could still answer it ("beforeExit").
  if (!invocation.done && self.solo) {
    self.watching = true;
    if (channel !== null && !invocation.stream?.waits) channel.unref();
  }
}

// Whether an invocation that was sent behind another is still this worker's: the server takes back what waits too long.
const token = Buffer.alloc(1);
function claim() {
  try {
    return readSync(CLAIMS, token, 0, 1, null) === 1;
  } catch {
    return false;
  }
}

// Marks an invocation as answered; false when it already was.
function close(invocation) {
  if (invocation.done) return false;
  invocation.done = true;
  self.active.delete(invocation.id);
  if (self.waiting.length > 0) queueMicrotask(beginWaiting);
  if (self.watching) {
    self.watching = false;
    if (channel !== null) channel.ref();
  }
  return true;
}

// The event loop ran empty. What AWS does: answer what was called back, or `null` where nothing ever will be.
function drained() {
  if (self.stage === 'loading') {
    const message = 'the function waits, while loading, for something that cannot happen';
    return failLoading(new Fault('Runtime.InitError', message));
  }
  for (const invocation of [...self.active.values()]) {
    if (invocation.stream !== null) invocation.stream.drained();
    else if (invocation.parked !== undefined) succeedEvent(invocation, invocation.parked.result);
    else if (self.load.convention === 'event' && MAJOR < 24) succeedEvent(invocation, null);
    else fail(invocation, new Fault('Runtime.NeverSettled', 'the handler waits for something that cannot happen'));
  }
}

function isThenable(value) {
  return value !== null && typeof value === 'object' && typeof value.then === 'function';
}

// ---- the event convention: handler(event, context, callback)

function callEvent(invocation, header, source, from, to) {
  if (self.solo) setTrace(header.trace);
  let result;
  try {
    const event = from === to ? {} : parseEvent(source.toString('utf8', from, to));
    const context = eventContext(invocation, header);
    if (self.handler[STREAMING]) return callStreaming(invocation, event, context);
    result = MAJOR < 24
      ? self.handler(event, context, (error, value) => calledBack(invocation, error, value))
      : self.handler(event, context);
  } catch (error) {
    return fail(invocation, error);
  }
  if (isThenable(result)) {
    result.then(
      (value) => finishEvent(invocation, null, value),
      (error) => { if (invocation.parked === undefined) fail(invocation, MAJOR >= 24 ? error : error ?? 'handled'); });
  } else if (result !== undefined || MAJOR >= 24) {
    // Before Node 24 AWS ignores what a plain function returns and answers null; here it is the answer, as on 24,
    // unless the function takes the callback.
    if (self.handler.length < 3 || MAJOR >= 24) succeedEvent(invocation, result);
  }
}

function parseEvent(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Fault('Runtime.UnmarshalError', 'Unable to parse the event: ' + error.message);
  }
}

function setTrace(trace) {
  if (trace === undefined || trace === null) {
    if (self.traced) delete process.env._X_AMZN_TRACE_ID;
    self.traced = false;
  } else {
    process.env._X_AMZN_TRACE_ID = trace;
    self.traced = true;
  }
}

function eventContext(invocation, header) {
  const about = self.load.function;
  const deadline = header.deadline_ms;
  const context = {
    callbackWaitsForEmptyEventLoop: true,
    functionVersion: about.version,
    functionName: about.name,
    memoryLimitInMB: about.memory,
    logGroupName: about.log_group,
    logStreamName: about.log_stream,
    clientContext: asObject(header.client_context),
    identity: asObject(header.identity),
    invokedFunctionArn: header.arn ?? about.arn,
    awsRequestId: invocation.id,
    getRemainingTimeInMillis: () => deadline - Date.now(),
    succeed: (value) => finishEvent(invocation, null, value),
    fail: (error) => finishEvent(invocation, error ?? 'handled', null),
    done: (error, value) => finishEvent(invocation, error, value),
  };
  if (MAJOR >= 24) { // AWS removed the callback style there, and these with it
    for (const name of ['callbackWaitsForEmptyEventLoop', 'succeed', 'fail', 'done']) delete context[name];
    context.tenantId = undefined;
    context.xRayTraceId = header.trace ?? undefined;
  }
  invocation.context = context;
  return context;
}

function asObject(value) {
  if (typeof value !== 'string') return value ?? undefined;
  try {
    return JSON.parse(value);
  } catch {
    return undefined;
  }
}

// Only the first call counts; the answer waits for an empty event loop unless the function said otherwise. With
// several invocations at once the loop is never empty because of one of them, so there it does not wait.
function calledBack(invocation, error, value) {
  if (invocation.parked !== undefined || invocation.done) return;
  if ((error !== undefined && error !== null) || !self.solo || !invocation.context.callbackWaitsForEmptyEventLoop) {
    return finishEvent(invocation, error, value);
  }
  invocation.parked = { result: value };
}

function finishEvent(invocation, error, value) {
  if (invocation.parked !== undefined) return; // it called back first
  if (error !== undefined && error !== null) fail(invocation, error);
  else succeedEvent(invocation, value);
}

function succeedEvent(invocation, value) {
  if (invocation.done) return;
  let text;
  try {
    text = JSON.stringify(value) ?? 'null';
  } catch (error) {
    return unstringifiable(invocation, error);
  }
  answer(invocation, text);
}

// What the handler took, for the server's choice of where calls go.
function took(invocation) {
  return ',"us":' + Math.round((performance.now() - invocation.began) * 1000);
}

function answer(invocation, body) {
  if (close(invocation)) send('{"t":"reply","id":' + JSON.stringify(invocation.id) + took(invocation) + '}', body);
}

// ---- answers in pieces: `awslambda.streamifyResponse`, and bodies of the request convention that are streams

const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');
const HIGH_WATER = Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark');
const HTTP_INTEGRATION = 'application/vnd.awslambda.http-integration-response';
const PIECE_COST = 256; // of the window, besides a piece's length (docs/design/002-channel.md)
const PIECE_LIMIT = 64 * 1024;

globalThis.awslambda = {
  streamifyResponse: (handler, options) => {
    handler[STREAMING] = 'response';
    if (options?.highWaterMark !== undefined) handler[HIGH_WATER] = Number(options.highWaterMark);
    return handler;
  },
  HttpResponseStream: {
    from: (stream, prelude) => {
      stream.setContentType(HTTP_INTEGRATION);
      stream.writeFirst(JSON.stringify(prelude) + '\0'.repeat(8));
      return stream;
    },
  },
};

// The class is made when it is first needed: its base is a module that a template loads before it is cloned.
let AnswerStream = null;
function answerStream() {
  const { Writable } = require('stream');
  AnswerStream ??= class ResponseStream extends Writable {
    #invocation;
    #head; // the inside of the frame's `http`, as JSON; null: the function says nothing of its answer but its type
    #type = 'application/octet-stream';
    #first = null; // what is written before everything else
    #begun = false;
    #window;
    #pieces = []; // for a caller that takes the answer whole
    #rest = null; // { chunk, done }: what waits for the window
    #settled = false; // the handler has returned

    constructor(invocation, head) {
      super({ decodeStrings: true, highWaterMark: self.handler[HIGH_WATER] });
      this.#invocation = invocation;
      this.#head = head;
      this.#window = invocation.window;
      invocation.stream = this;
    }

    setContentType(type) {
      this.#type = String(type);
    }

    writeFirst(text) {
      this.#first = Buffer.from(text);
    }

    // AWS's stream takes any value, and writes those that are not bytes as JSON.
    write(chunk, ...more) {
      const plain = typeof chunk === 'string' || ArrayBuffer.isView(chunk) || chunk === null || chunk === undefined;
      return super.write(plain ? chunk : JSON.stringify(chunk), ...more);
    }

    _write(chunk, _encoding, done) {
      this.#begin();
      this.#put(chunk, done);
    }

    _final(done) {
      this.#begin();
      if (this.#rest !== null) { // the prelude of an empty answer
        const { chunk } = this.#rest;
        this.#rest = { chunk, done };
        return;
      }
      done();
    }

    #begin() {
      if (this.#begun || this.#invocation.done) return;
      this.#begun = true;
      if (this.#window !== undefined) send('{"t":"stream","id":' + JSON.stringify(this.#invocation.id) + this.#http() + '}', '');
      if (this.#first !== null) this.#put(this.#first, () => {});
    }

    #http() {
      if (this.#head !== null) return ',"http":' + this.#head;
      return ',"http":{"status":0,"headers":[["content-type",' + headerValue('content-type', this.#type) + ']]}';
    }

    #put(chunk, done) {
      if (this.#window === undefined) {
        this.#pieces.push(chunk);
        return void done();
      }
      const before = this.#rest;
      if (before !== null) { // the prelude waits; what comes behind it waits with it
        this.#rest = { chunk: Buffer.concat([before.chunk, chunk]), done: () => { before.done(); done(); } };
      } else {
        this.#rest = { chunk, done };
      }
      this.#pour();
    }

    // Sends what the window has room for. Waiting for the rest of it keeps the process going.
    #pour() {
      let { chunk, done } = this.#rest;
      while (chunk.length > 0 && this.#window > PIECE_COST && !this.#invocation.done) {
        const length = Math.min(chunk.length, PIECE_LIMIT, this.#window - PIECE_COST);
        send('{"t":"chunk","id":' + JSON.stringify(this.#invocation.id) + '}', chunk.subarray(0, length));
        this.#window -= length + PIECE_COST;
        chunk = chunk.subarray(length);
      }
      if (chunk.length > 0 && !this.#invocation.done) {
        this.#rest = { chunk, done };
        keepAlive(true);
      } else {
        this.#rest = null;
        done();
      }
    }

    get waits() {
      return this.#rest !== null;
    }

    widen(bytes) {
      this.#window += bytes;
      if (this.#rest === null) return;
      keepAlive(false);
      this.#pour();
    }

    // The handler has returned; the answer may still go on.
    settle() {
      this.#settled = true;
    }

    // Nothing is left that could go on. A function that has returned without `end()` has said all that it will say.
    drained() {
      if (this.#settled) this.end();
      else fail(this.#invocation, new Fault('Runtime.NeverSettled', 'the handler waits for something that cannot happen'));
    }

    complete() {
      const invocation = this.#invocation;
      if (!close(invocation)) return;
      const id = JSON.stringify(invocation.id) + took(invocation);
      if (this.#window !== undefined) send('{"t":"end","id":' + id + '}', '');
      else send('{"t":"reply","id":' + id + this.#http() + '}', Buffer.concat(this.#pieces));
    }
  };
  return AnswerStream;
}

// While one invocation is under way the channel does not keep the process going, unless something is waited for on it.
function keepAlive(on) {
  if (!self.watching || channel === null) return;
  if (on) channel.ref();
  else channel.unref();
}

function callStreaming(invocation, event, context) {
  const stream = new (answerStream())(invocation, null);
  const ended = new Promise((resolve, reject) => {
    require('stream').finished(stream, (error) => (error ? reject(error) : resolve()));
  });
  ended.catch(() => {});
  Promise.resolve(self.handler(event, stream, context)).then(() => { stream.settle(); return ended; }).then(
    () => stream.complete(),
    (error) => fail(invocation, error ?? 'handled'));
}

// A body of the request convention that comes in pieces: a stream of Node's or of the web's, or any async iterable.
function streamRequest(invocation, head, body) {
  const { Readable, pipeline } = require('stream');
  const stream = new (answerStream())(invocation, head);
  stream.settle();
  pipeline(body instanceof Readable ? body : Readable.from(body), stream, (error) => {
    if (error) fail(invocation, error);
    else stream.complete();
  });
}

// ---- the request convention: handler(request) → { statusCode?, headers?, body? } | anything

// HTTP calls it `content-type`; Glambdar's functions read `Content-Type`. The names of a request are kept as the
// latter, and objects of headers share one prototype that finds every other spelling. It costs nothing until used.
const canonicalNames = new Map();
function canonical(name) {
  let found = canonicalNames.get(name);
  if (found === undefined) {
    found = name.toLowerCase().replace(/(^|-)[a-z]/g, (letters) => letters.toUpperCase());
    if (canonicalNames.size < 1000) canonicalNames.set(name, found);
  }
  return found;
}

const anySpelling = new Proxy({}, {
  get(target, name, headers) {
    if (typeof name === 'string') {
      const wanted = canonical(name);
      if (wanted !== name && Object.prototype.hasOwnProperty.call(headers, wanted)) return headers[wanted];
    }
    return Reflect.get(target, name, headers);
  },
});

function requestHeaders(pairs) {
  const headers = {};
  for (let i = 0; i < pairs.length; i++) {
    const name = canonical(pairs[i][0]);
    const earlier = headers[name];
    headers[name] = earlier === undefined ? pairs[i][1] : earlier + ',' + pairs[i][1];
  }
  return Object.setPrototypeOf(headers, anySpelling);
}

class Request {
  constructor(header, bytes) {
    const http = header.http;
    this.method = http ? http.method : 'POST';
    this.path = http ? http.path : '/';
    this.query = http ? http.query ?? '' : '';
    this.headers = requestHeaders(http ? http.headers : []);
    this.body = bytes.toString('utf8');
    this.rawBody = bytes;
    this.id = header.id;
  }

  async text() { return this.body; }

  async bytes() { return this.rawBody; }

  async json() {
    try {
      return JSON.parse(this.body);
    } catch {
      throw new Error('invalid JSON body');
    }
  }
}

function callRequest(invocation, header, source, from, to) {
  let result;
  try {
    // A body that came alone in its buffer is the function's to keep; one inside the inbox is copied out of it.
    const view = source.subarray(from, to);
    const bytes = from === to ? EMPTY : source === inbox ? Buffer.from(view) : view;
    result = self.handler(new Request(header, bytes));
  } catch (error) {
    return fail(invocation, error);
  }
  if (isThenable(result)) {
    result.then((value) => succeedRequest(invocation, value), (error) => fail(invocation, error));
  } else {
    succeedRequest(invocation, result);
  }
}

function succeedRequest(invocation, value) {
  if (invocation.done) return;
  let answer;
  try {
    answer = isAnswer(value) ? fromAnswer(value) : fromAnswer({ body: value ?? null });
  } catch (error) {
    return unserialisable(invocation, messageOf(error));
  }
  const head = '{"status":' + answer.status + ',"headers":[' + answer.headers + ']}';
  if (answer.pieces !== undefined) return streamRequest(invocation, head, answer.pieces);
  if (close(invocation)) {
    send('{"t":"reply","id":' + JSON.stringify(invocation.id) + took(invocation) + ',"http":' + head + '}', answer.body);
  }
}

function isAnswer(value) {
  return value !== null && typeof value === 'object' && !Array.isArray(value) && asBytes(value) === null && !inPieces(value) &&
    ('body' in value || 'statusCode' in value || 'headers' in value);
}

function inPieces(value) {
  return typeof value === 'object' && value !== null && typeof value[Symbol.asyncIterator] === 'function';
}

function asBytes(value) {
  if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  return isAnyArrayBuffer(value) ? Buffer.from(value) : null;
}

// Bytes stay bytes; a string is sent as it is when the function named its type; anything else is JSON.
function fromAnswer({ statusCode, headers, body, isBase64Encoded }) {
  const status = statusOf(statusCode);
  const { lines, typed } = headerLines(headers);
  const withType = (type) => (typed ? lines : (lines && lines + ',') + '["Content-Type","' + type + '"]');
  if (body === undefined) return { status, headers: lines, body: '' };
  if (isBase64Encoded === true && typeof body === 'string') body = Buffer.from(body, 'base64');
  const bytes = typeof body === 'object' ? asBytes(body) : null;
  if (bytes !== null) return { status, headers: withType('application/octet-stream'), body: bytes };
  if (inPieces(body)) return { status, headers: withType('application/octet-stream'), pieces: body };
  if (typeof body === 'string' && typed) return { status, headers: lines, body };
  const text = JSON.stringify(body);
  if (text === undefined) throw new TypeError(`a body of type ${typeof body} cannot be made JSON`);
  return { status, headers: withType('application/json'), body: text };
}

function statusOf(code) {
  if (code === undefined || code === null || code === 0) return 200;
  const status = Number(code);
  if (typeof code === 'boolean' || !Number.isInteger(status) || status < 200 || status > 599) {
    throw new RangeError(`statusCode must be a whole number from 200 to 599, not ${quote(code)}`);
  }
  return status;
}

const BAD_NAME = /[^!#$%&'*+\-.^_`|~0-9A-Za-z]/;
const BAD_VALUE = /[\0-\x08\x0a-\x1f\x7f]/;

// The headers as the inside of a JSON array of pairs, written by hand because this runs for every reply.
function headerLines(headers) {
  let lines = '';
  let typed = false;
  if (headers === undefined || headers === null) return { lines, typed };
  if (typeof headers !== 'object') throw new TypeError('headers must be an object');
  const pairs = typeof headers[Symbol.iterator] === 'function' ? headers : Object.entries(headers);
  for (const [name, values] of pairs) {
    if (values === undefined || values === null) continue;
    if (typeof name !== 'string' || name === '' || BAD_NAME.test(name)) {
      throw new TypeError(`${quote(name)} is not a header name`);
    }
    if (name.length === 12 && name.toLowerCase() === 'content-type') typed = true;
    for (const value of Array.isArray(values) ? values : [values]) {
      lines += (lines && ',') + '[' + JSON.stringify(name) + ',' + headerValue(name, value) + ']';
    }
  }
  return { lines, typed };
}

function headerValue(name, value) {
  const kind = typeof value;
  if (kind !== 'string' && kind !== 'number' && kind !== 'boolean' && kind !== 'bigint') {
    throw new TypeError(`the value of header ${name} must be a string, a number or an array of them`);
  }
  const text = String(value);
  if (BAD_VALUE.test(text)) {
    throw new TypeError(`the value of header ${name} has a character that headers cannot carry`);
  }
  return JSON.stringify(text);
}

function quote(value) {
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return typeof value;
  }
}

// ------------------------------------------------------------------------------------------------------------- fail

const MESSAGE_LIMIT = 256 * 1024; // an error is for people; one that is longer would only fail to be delivered

// What an error looks like to the caller. Never throws, whatever was thrown at it.
function describe(error) {
  try {
    if (isNativeError(error) || error instanceof Error) {
      const stack = typeof error.stack === 'string' ? error.stack : '';
      return {
        errorType: String(error.name),
        errorMessage: String(error.message).slice(0, MESSAGE_LIMIT),
        stack: stack.slice(0, MESSAGE_LIMIT).split('\n').filter((line) => !line.includes(__dirname + path.sep)),
      };
    }
    return { errorType: typeof error, errorMessage: String(error).slice(0, MESSAGE_LIMIT), stack: [] };
  } catch {
    return { errorType: 'handled', errorMessage: 'the error that was thrown could not be read', stack: [] };
  }
}

function messageOf(error) {
  return describe(error).errorMessage;
}

// AWS's Node.js client calls the stack `trace`; the request convention keeps the channel's own name for it.
function errorBody(shape) {
  const stackName = self.load?.convention === 'request' ? 'stackTrace' : 'trace';
  return JSON.stringify({ errorType: shape.errorType, errorMessage: shape.errorMessage, [stackName]: shape.stack });
}

function sendError(invocation, kind, shape, { last = false, title = 'Invoke Error', thrown, more } = {}) {
  if (!close(invocation)) return;
  logError(title, shape, { invocation, thrown, more });
  send(`{"t":"error","id":${JSON.stringify(invocation.id)},"kind":"${kind}"${last ? ',"last":true' : ''}}`, errorBody(shape));
}

function fail(invocation, error) {
  sendError(invocation, 'handler', describe(error), { thrown: error });
}

// AWS does not say why; the log does.
function unstringifiable(invocation, error) {
  const shape = describe(new Fault(MAJOR >= 24 ? 'Runtime.JSONStringifyError' : 'Error', 'Unable to stringify response body'));
  sendError(invocation, 'unserialisable', shape, { more: { reason: messageOf(error) } });
}

function unserialisable(invocation, message) {
  sendError(invocation, 'unserialisable', { errorType: 'Runtime.MarshalError', errorMessage: message, stack: [] });
}

function failLoading(error) {
  const shape = describe(error);
  logError(initError(), shape, { thrown: error });
  send('{"t":"init_error"}', errorBody(shape));
  leave(1);
}

// An error that nobody caught: the state of the function is unknown, so what is under way fails and the process ends.
function crash(shape, code, about) {
  try {
    if (self.stage === 'loading') {
      logError(about.title, shape, about);
      send('{"t":"init_error"}', errorBody(shape));
    } else {
      if (self.active.size === 0) logError(about.title, shape, about);
      for (const invocation of [...self.active.values()]) sendError(invocation, 'handler', shape, { ...about, last: true });
      if (channel !== null && channel.writableLength > 0) return void channel.write(EMPTY, () => leave(code));
    }
  } catch {
    // Telling failed; the exit below tells it anyway.
  }
  leave(code);
}

function watchFailures() {
  process.on('uncaughtException', (error, origin) => {
    if (origin !== 'unhandledRejection') crash(describe(error), 129, { title: 'Uncaught Exception', thrown: error });
  });
  process.on('unhandledRejection', (reason) => {
    const shape = describe(reason);
    const type = isNativeError(reason) ? shape.errorType + ': ' : '';
    const told = { ...shape, errorType: 'Runtime.UnhandledPromiseRejection', errorMessage: type + shape.errorMessage };
    crash(told, 128, { title: 'Unhandled Promise Rejection', more: { reason: shape, promise: {} } });
  });
  process.on('beforeExit', drained);
}

// -------------------------------------------------------------------------------------------------------------- log

// Straight to the descriptor: process.stderr must not be created in a template, nor belong to this file in a worker.
function log(text) {
  try {
    writeSync(2, text + '\n');
  } catch {
    // A log that cannot be written has nowhere to be reported.
  }
}

// AWS's clients call a failed start `Init Error` from Node.js 24 on.
const initError = () => (MAJOR >= 24 || !logs.installed() ? 'Init Error' : 'Uncaught Exception');

function logError(title, shape, { invocation, thrown, more } = {}) {
  if (logs.installed()) {
    const write = () => logs.writeError(title, shape, thrown, more);
    return invocation === undefined ? write() : logs.within(invocation.id, invocation.trace, write);
  }
  if (invocation !== undefined) title = `RequestId: ${invocation.id} ${title}`;
  const head = `${shape.errorType}: ${shape.errorMessage}`;
  const stack = shape.stack.filter((line) => /^\s+at /.test(line)).join('\n');
  log(`ERROR\t${title}\t${head}${stack && '\n' + stack}`);
}

// ------------------------------------------------------------------------------------------------------------ start

// Adopts what a `load` or `resume` frame says about the function.
function adopt(frame) {
  const about = frame.function ?? {};
  self.load = {
    ...self.load,
    ...frame,
    function: { ...about, memory: String(about.memory_mib ?? '') },
  };
  // Started through a wrapper, it has the environment that the wrapper left it.
  setEnvironment(frame.keep_env ? { ...process.env } : (frame.env ?? {}));
  if (self.cloned) renew(frame);
}

async function work() {
  self.stage = 'loading';
  const frame = readFrame();
  const startedAt = performance.now();
  if (frame.t !== 'load') violation('"' + frame.t + '" where "load" belongs');
  try {
    adopt(frame);
    const snapshot = frame.snapshot === true && self.jail !== null;
    if (snapshot) replaceRandom();
    self.solo = !(frame.max_concurrency > 1);
    self.call = frame.convention === 'request' ? callRequest : callEvent;
    if (frame.convention !== 'request') logs.install(process.env, self.solo);
    self.handler = await loadFunction(frame);
    // Node.js reports a rejection that nobody caught when nothing else is left to do in a turn: it belongs to the start.
    await new Promise((resolve) => setImmediate(resolve));
    if (snapshot && !alone()) {
      log('this function leaves other processes running when it has initialised: no snapshot is made of it');
    } else if (snapshot) {
      await runHooks(hooks.before.reverse(), 'Runtime.BeforeSnapshotError');
      sayReady(startedAt, '');
      return void setImmediate(snapshotted);
    }
    sayReady(startedAt, frame.snapshot === true ? ',"snapshot":false' : '');
    serve();
  } catch (error) {
    failLoading(error);
  }
}

// The rest of the life of a function template: here in the template, and from there on in each of its clones.
async function snapshotted() {
  emptyNursery();
  forkClones();
  if (self.jail.spare()) rehearseResume();
  const frame = readFrame();
  const startedAt = performance.now();
  if (frame.t !== 'resume') violation('"' + frame.t + '" where "resume" belongs');
  try {
    adopt(frame);
    drainCrypto();
    await runHooks(hooks.after, 'Runtime.AfterRestoreError');
    sayReady(startedAt, '');
    serve();
  } catch (error) {
    failLoading(error);
  }
}

// In a spare: touches the memory that resuming will touch. All of it is renewed again, properly, by the frame that comes.
function rehearseResume() {
  setEnvironment({ ...process.env });
  renew({ seed: '00'.repeat(32), function: self.load.function });
  drainCrypto();
}

// Whether this is the only process of its box: another would live on in the template and see every clone.
function alone() {
  try {
    return fs.readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name)).length <= 1;
  } catch {
    return false;
  }
}

function serve() {
  self.stage = 'serving';
  openChannel();
}

// What a function most often requires. Loading it once in the template saves each clone 30 to 80 ms (fetch alone 20 to
// 40) and costs it no memory, since the pages are shared. `crypto` is loaded, but none of its stores is filled here.
const PRELOAD = [
  'http', 'https', 'fs', 'fs/promises', 'path', 'crypto', 'url', 'util', 'stream', 'stream/promises', 'zlib', 'buffer',
  'events', 'net', 'tls', 'dns', 'dns/promises', 'timers', 'timers/promises', 'async_hooks', 'string_decoder', 'os',
  'querystring', 'child_process', 'worker_threads', 'perf_hooks', 'assert', 'readline', 'module', 'vm', 'http2',
];
const PRELOAD_GLOBALS = [
  'fetch', 'Headers', 'Request', 'Response', 'FormData', 'AbortController', 'Blob', 'TextDecoder', 'ReadableStream',
  'structuredClone', 'crypto', 'CompressionStream', 'BroadcastChannel', 'WebSocket',
];

async function template(libraryPath) {
  self.stage = 'template';
  self.jail = openLibrary(libraryPath);
  if (self.jail === null) {
    log(`the worker cannot use ${libraryPath}: ${self.libraryError}`);
    leave(MISSING_LIBRARY);
  }
  require('v8').setFlagsFromString('--no-flush-bytecode'); // what was compiled here stays compiled for the clones
  replaceRandom();
  for (const name of PRELOAD) require(name);
  for (const name of PRELOAD_GLOBALS) void globalThis[name];
  new globalThis.Headers(); // the first use is what loads undici
  await import('data:text/javascript,export default 1'); // the machinery of ESM, without a file that it would read
  await rehearse();
  setImmediate(async () => {
    emptyNursery();
    self.jail.announce(process.versions.node);
    forkClones();
    if (self.jail.spare()) await waitAsSpare();
    work();
  });
}

// Runs the paths that every start and invocation takes, so that clones inherit them compiled: a clone's first run of
// anything is several times slower than its second. Nothing is sent, and nothing stays open.
async function rehearse() {
  await silently(async () => {
    await rehearseStart(4);
    for (const convention of ['event', 'request']) await rehearseInvocations(convention, 60);
    await rehearseChannel();
  });
}

async function silently(body) {
  const real = put;
  put = () => {};
  await body();
  put = real;
  Object.assign(self, { load: null, handler: null, call: null });
}

// A spare is a clone that was made before it is needed. Its box has namespaces but is not sealed, so nothing of a user may
// run; it uses the time to touch the memory that its start will touch, and then waits to be told what it is for.
async function waitAsSpare() {
  await silently(async () => {
    await rehearseStart(1);
    await rehearseInvocations('request', 1);
  });
  self.stage = 'loading';
  self.jail.seal();
}

async function rehearseStart(rounds) {
  const env = { ...process.env };
  const frame = { seed: '00'.repeat(32), env: { ...env, LAMBDA_TASK_ROOT: __dirname }, function: { name: 'rehearsal' } };
  frame.handler = path.basename(__filename, '.cjs') + '.handler';
  frame.convention = 'event';
  const { pid, title } = process;
  const uptime = process.uptime;
  for (let i = 0; i < rounds; i++) {
    adopt(parseHeader(Buffer.from(JSON.stringify(frame)), 0, JSON.stringify(frame).length));
    renew(frame);
    delete require.cache[__filename];
    self.handler = await loadFunction(frame);
    sayReady(performance.now(), '');
  }
  setEnvironment(env);
  Object.assign(process, { title, uptime });
  Object.defineProperty(process, 'pid', { value: pid, writable: false, enumerable: true, configurable: true });
}

async function rehearseInvocations(convention, rounds) {
  const pairs = [['host', 'h'], ['content-type', 'application/json'], ['user-agent', 'u'], ['accept', '*/*']];
  const http = { method: 'POST', path: '/', query: 'a=b', headers: pairs };
  const body = '{"a":[1,"x"]}';
  self.load = { convention, function: { name: 'rehearsal', version: '1', memory: '128' } };
  self.call = convention === 'request' ? callRequest : callEvent;
  self.handler = convention === 'event' ? async (event) => event : async (request) => (
    { statusCode: 200, headers: { 'X-A': 'b' }, body: await request.json() });
  for (let i = 0; i < rounds; i++) {
    const header = JSON.stringify({ t: 'invoke', id: 'rehearsal-' + i, deadline_ms: 1, arn: 'arn', http });
    inbox.writeUInt32LE(inbox.write(header, 8), 0);
    inbox.writeUInt32LE(inbox.write(body, 8 + header.length), 4);
    received(8 + header.length + body.length);
    await null;
  }
  await new Promise((resolve) => setImmediate(resolve));
}

// A conversation over a socket like the channel, with both ends here. Its name is abstract: no file is made.
async function rehearseChannel() {
  const name = '\0offshoot-' + require('crypto').randomBytes(8).toString('hex');
  const server = net.createServer((peer) => peer.on('data', (data) => peer.end(data)).on('error', () => {}));
  await new Promise((resolve) => server.listen(name, resolve).on('error', resolve));
  await new Promise((resolve) => {
    const socket = net.connect({ path: name, onread: { buffer: Buffer.alloc(64), callback: () => true } });
    socket.on('connect', () => { socket.unref(); socket.ref(); socket.write('x'); });
    socket.on('error', resolve).on('end', () => socket.destroy()).on('close', resolve);
  });
  await new Promise((resolve) => server.close(resolve));
}

// Empties the young generation before forking, or each clone would soon collect, and so copy, what its template left
// there. Two rounds, because an object is moved out in its second. (A full collection costs clones more than it saves:
// it throws away what V8 learnt about the code.)
function emptyNursery() {
  const v8 = require('v8');
  v8.setFlagsFromString('--expose-gc');
  const collect = require('vm').runInNewContext('gc');
  v8.setFlagsFromString('--no-expose-gc');
  for (let round = 0; round < 2; round++) collect({ type: 'minor' });
}

// The library, ready for use, or null where it is missing, does not fit this Node.js, or may not do its work here.
function openLibrary(file) {
  try {
    if (!file) throw new Error('no path was given');
    const native = { exports: {} };
    process.dlopen(native, file);
    native.exports.init();
    return native.exports;
  } catch (error) {
    self.libraryError = error.message;
    return null;
  }
}

function main([mode, libraryPath]) {
  watchFailures();
  if (mode === 'template') return template(libraryPath);
  if (mode !== 'boot') {
    log('usage: worker.cjs template <library> | worker.cjs boot [<library>]');
    return leave(64);
  }
  if (libraryPath) self.jail = openLibrary(libraryPath); // without it, `ready` says that there is no snapshot
  return work();
}

main(process.argv.slice(2));
