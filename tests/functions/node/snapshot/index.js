// State made once, before the snapshot; hooks on both sides of it.
const { offshoot } = globalThis;
const initialised = require('crypto').randomUUID();
const hooks = [];
let before = 0;
let after = 0;
offshoot.registerBeforeSnapshot(() => { before += 1; hooks.push('before 1'); });
offshoot.registerBeforeSnapshot(async () => { hooks.push('before 2'); });
offshoot.registerAfterRestore(async () => { after += 1; hooks.push('after 1'); });
offshoot.registerAfterRestore(() => { hooks.push('after 2'); });
let calls = 0;
exports.handler = async (req) => {
  calls += 1;
  if (req.body === 'leave') setImmediate(() => process.exit(0));
  return { body: { initialised, before, after, hooks, calls, kind: process.env.AWS_LAMBDA_INITIALIZATION_TYPE } };
};
