'use strict';

// How functions of the event convention write their log: `console` in AWS's shapes, text or JSON, and to which call a line
// belongs. What the environment says (`AWS_LAMBDA_LOG_FORMAT`, `AWS_LAMBDA_LOG_LEVEL`) is read once, before the function
// is loaded. Functions of the request convention keep Node's own console.
//
// It never decides what is kept of a log; the server does.

const fs = require('fs');
const { format } = require('util');

const MAJOR = Number(process.versions.node.split('.')[0]);
const LEVELS = { TRACE: 1, DEBUG: 2, INFO: 3, WARN: 4, ERROR: 5, FATAL: 6 };
const METHODS = { trace: 'TRACE', debug: 'DEBUG', info: 'INFO', log: 'INFO', warn: 'WARN', error: 'ERROR', fatal: 'FATAL' };
const OUTPUT = 1; // AWS has one stream of lines; two pipes would lose their order

// The names under which AWS's libraries look for these (the package @aws/lambda-invoke-store).
const REQUEST_ID = Symbol.for('_AWS_LAMBDA_REQUEST_ID');
const TRACE_ID = Symbol.for('_AWS_LAMBDA_X_RAY_TRACE_ID');
const TENANT_ID = Symbol.for('_AWS_LAMBDA_TENANT_ID');

const state = {
  installed: false,
  json: false,
  least: LEVELS.TRACE,
  single: undefined, // the store of the one call at a time; it stays until the next, as on AWS
  several: null, // an AsyncLocalStorage where several calls run at once
};

function install(env, solo) {
  state.installed = true;
  state.json = (env.AWS_LAMBDA_LOG_FORMAT ?? '').toUpperCase() === 'JSON';
  state.least = LEVELS[(env.AWS_LAMBDA_LOG_LEVEL ?? '').toUpperCase()] ?? LEVELS.TRACE;
  if (!solo) state.several = new (require('async_hooks').AsyncLocalStorage)();
  for (const [method, level] of Object.entries(METHODS)) {
    console[method] = LEVELS[level] < state.least ? () => {} : (...args) => write(line(level, args));
  }
  globalThis.awslambda.InvokeStore = invokeStore;
}

function store() {
  return state.several === null ? state.single : state.several.getStore();
}

// Runs a call, so that what it prints is known to be its own.
function within(id, trace, call) {
  if (!state.installed) return call();
  const own = { [REQUEST_ID]: id, [TRACE_ID]: trace ?? undefined };
  if (state.several !== null) return state.several.run(own, call);
  state.single = own;
  return call();
}

// The interface of AWS's store of what belongs to one call.
const invokeStore = {
  isProtectedKey: (key) => key === REQUEST_ID || key === TRACE_ID || key === TENANT_ID,
  getContext: store,
  hasContext: () => store() !== undefined,
  get: (key) => store()?.[key],
  set(key, value) {
    if (this.isProtectedKey(key)) throw new Error(`Cannot modify protected Lambda context field: ${String(key)}`);
    if (state.several === null) state.single ??= {};
    const own = store();
    if (own === undefined) throw new Error('No context available');
    own[key] = value;
  },
  run(context, call) {
    if (state.several !== null) return state.several.run(context, call);
    state.single = context;
    return call();
  },
  getRequestId: () => store()?.[REQUEST_ID] ?? '-',
  getXRayTraceId: () => store()?.[TRACE_ID],
  getTenantId: () => store()?.[TENANT_ID],
};

// Outside any call AWS's clients say `-` from Node.js 22 on; before, text says `undefined` and JSON says nothing.
function requestId() {
  return store()?.[REQUEST_ID] ?? (MAJOR >= 22 ? '-' : undefined);
}

function line(level, args) {
  const timestamp = new Date().toISOString();
  if (!state.json) return `${timestamp}\t${requestId()}\t${level}\t${format(...args)}`;
  const record = { timestamp, level, requestId: requestId() };
  if (args.length <= 1) {
    record.message = args[0];
    try {
      return JSON.stringify(record, spellOut);
    } catch { // what JSON has no form for is shown as text shows it
      record.message = format(...args);
      return JSON.stringify(record);
    }
  }
  record.message = format(...args);
  const error = args.find((arg) => arg instanceof Error);
  if (error !== undefined) Object.assign(record, shapeOf(error));
  return JSON.stringify(record);
}

function spellOut(_key, value) {
  return value instanceof Error ? Object.assign(shapeOf(value), value) : value;
}

function shapeOf(error) {
  return {
    errorType: error.constructor?.name ?? 'UnknownError',
    errorMessage: error.message,
    stackTrace: typeof error.stack === 'string' ? error.stack.split('\n') : [],
  };
}

// An error that ends a call or a start. `shape` is what callers are told of it; `thrown` is what it came from, if known.
function writeError(title, shape, thrown, more) {
  if (state.least > LEVELS.ERROR) return;
  let own = {};
  try {
    if (thrown instanceof Error) own = { code: thrown.code, ...thrown };
    JSON.stringify(own);
  } catch {
    own = {}; // members that cannot be written, or not even read
  }
  const { errorType, errorMessage, stack } = shape;
  if (state.json) write(line('ERROR', [{ errorType, errorMessage, stackTrace: stack, ...own, ...more }]));
  else write(line('ERROR', [title, '\t' + JSON.stringify({ errorType, errorMessage, ...own, ...more, stack })]));
}

// Straight to the descriptor, which may or may not block: a line is written whole before the function goes on.
function write(text) {
  const bytes = Buffer.from(text + '\n');
  for (let at = 0; at < bytes.length; ) {
    try {
      at += fs.writeSync(OUTPUT, bytes, at);
    } catch (error) {
      if (error.code !== 'EAGAIN') return; // the function has closed it: nobody is left to tell
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

module.exports = { install, within, writeError, installed: () => state.installed };
