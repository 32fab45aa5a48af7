// Durable functions in JavaScript, on AWS's own SDK. The event says which; steps return something that no second run would.
const { randomUUID } = require('node:crypto');
const { withDurableExecution } = require('@aws/durable-execution-sdk-js');

const unique = async () => randomUUID();
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

const flows = {
  async steps(event, context) {
    const first = await context.step('first', unique);
    const second = await context.step('second', async () => `${first}+`);
    return { first, second, said: event.say };
  },
  async waits(event, context) {
    const before = await context.step('before', unique);
    await context.wait('pause', { seconds: event.seconds ?? 1 });
    const after = await context.step('after', unique);
    return { before, after };
  },
  async retries(event, context) {
    // An attempt does not know its number: the third second since the first is as good.
    const begun = await context.step('begun', async () => Date.now());
    return context.step('sometimes', async () => {
      if (Date.now() - begun < event.ms) throw new Error('this attempt is not good');
      return 'good';
    }, { retryStrategy: (_error, attempt) => ({ shouldRetry: attempt < 3, delay: { seconds: 1 } }) });
  },
  async callback(event, context) {
    const config = {};
    if (event.timeout) config.timeout = { seconds: event.timeout };
    if (event.heartbeat) config.heartbeatTimeout = { seconds: event.heartbeat };
    const [answer] = await context.createCallback('answer', config);
    try {
      return { answer: await answer };
    } catch (error) {
      return { error: error.name, said: error.message };
    }
  },
  async several(event, context) {
    const branches = [0, 1, 2].map((n) => async (child) => child.step(`branch-${n}`, async () => n * 10));
    const parallel = await context.parallel('branches', branches);
    const mapped = await context.map('mapped', [1, 2, 3], async (child, item) => child.step(async () => item + 1));
    const child = await context.runInChildContext('child', async (inner) => {
      await inner.wait({ seconds: 1 });
      return inner.step('in-child', async () => 'inside');
    });
    return { parallel: parallel.getResults(), mapped: mapped.getResults(), child };
  },
  async chained(event, context) {
    try {
      return { answer: await context.invoke('other', event.function, event.payload) };
    } catch (error) {
      return { error: error.name, said: error.message };
    }
  },
  async fails(event, context) {
    await context.step('first', unique);
    throw new Error('this execution fails');
  },
  async many(event, context) {
    let total = 0;
    for (let n = 0; n < event.steps; n++) {
      total += (await context.step(`step-${n}`, async () => 'x'.repeat(event.bytes ?? 1))).length;
    }
    await context.wait({ seconds: 1 });
    return total;
  },
  async slow(event, context) {
    const marks = [];
    for (let n = 0; n < event.rounds; n++) {
      marks.push(await context.step(`mark-${n}`, unique));
      if (n % 3 === 2) await context.wait({ seconds: 1 });
      else await context.step(`nap-${n}`, async () => sleep(100));
    }
    return marks;
  },
};

exports.handler = withDurableExecution(async (event, context) => flows[event.flow](event, context));
