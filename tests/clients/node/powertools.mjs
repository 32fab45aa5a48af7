// A shop on Powertools for TypeScript: logs, metrics, traces, a router for HTTP, a batch of records, a parsed order, and orders
// that are taken once. The test deploys it beside the libraries and reads its answers and what it prints.

import { BatchProcessor, EventType, processPartialResponse } from '@aws-lambda-powertools/batch';
import { NotFoundError, Router } from '@aws-lambda-powertools/event-handler/http';
import { IdempotencyConfig, makeIdempotent } from '@aws-lambda-powertools/idempotency';
import { CachePersistenceLayer } from '@aws-lambda-powertools/idempotency/cache';
import { Logger } from '@aws-lambda-powertools/logger';
import { Metrics, MetricUnit } from '@aws-lambda-powertools/metrics';
import { parse } from '@aws-lambda-powertools/parser';
import { Tracer } from '@aws-lambda-powertools/tracer';
import { z } from 'zod';

const logger = new Logger({ serviceName: 'shop' });
const metrics = new Metrics({ namespace: 'Shop', serviceName: 'shop' });
const tracer = new Tracer({ serviceName: 'shop' });
const batch = new BatchProcessor(EventType.SQS);
const Order = z.object({ id: z.string(), item: z.string(), count: z.number() });

// What was done, for as long as the environment lives.
const kept = new Map();
const client = {
  get: async (key) => kept.get(key) ?? null,
  set: async (key, value, options) => {
    if (kept.has(key) && (options?.NX || options?.conditionalSet === 'onlyIfDoesNotExist')) return null;
    kept.set(key, value);
    return 'OK';
  },
  del: async (keys) => keys.filter((key) => kept.delete(key)).length,
};
const once = new IdempotencyConfig({ eventKeyJmesPath: 'id' });
let taken = 0;
const take = makeIdempotent(async (order) => ({ number: (taken += 1), item: order.item }), {
  persistenceStore: new CachePersistenceLayer({ client }), config: once,
});

const app = new Router({ logger });
app.get('/items/:name', async ({ params, req }) => ({
  item: params.name, query: Object.fromEntries(new URL(req.url).searchParams),
}));
app.post('/items', async ({ req }) => new Response(`made ${(await req.json()).item}`, { status: 201, headers: { 'X-Shop': 'open' } }));
app.get('/none', async () => { throw new NotFoundError('no such thing'); });

async function record(message) {
  if (message.body === 'bad') throw new Error('asked to');
}

export async function handler(event, context) {
  logger.addContext(context);
  metrics.setFunctionName(context.functionName);
  metrics.captureColdStartMetric();
  try {
    if (event.Records) return await processPartialResponse(event, record, batch, { context });
    if (event.requestContext) return await app.resolve(event, context);
    if (event.order) {
      const order = parse(event.order, undefined, Order, true);
      if (!order.success) {
        logger.warn('refused', order.error);
        return { refused: true };
      }
      metrics.addMetric('Ordered', MetricUnit.Count, order.data.count);
      logger.info('ordered', { item: order.data.item });
      once.registerLambdaContext(context);
      return { ...(await take(order.data)), pid: process.pid };
    }
    if (event.fail) {
      const error = new RangeError('asked to');
      logger.error('it failed', error);
      throw error;
    }
    return { left: context.getRemainingTimeInMillis(), tracing: tracer.isTracingEnabled() };
  } finally {
    metrics.publishStoredMetrics();
  }
}
