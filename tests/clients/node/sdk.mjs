// Drives a server with AWS's SDK for JavaScript as people do: node sdk.mjs URL RUNTIME ARCHIVES. The folder ARCHIVES holds the zips.
// Each function here is one story; the first that does not come out ends the program with its stack.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

import * as lambda from '@aws-sdk/client-lambda';

const [url, runtime, archives] = process.argv.slice(2);
const ROLE = 'arn:aws:iam::000000000000:role/r';
const ARN = 'arn:aws:lambda:us-east-1:000000000000:function:';
const client = new lambda.LambdaClient({
  endpoint: url, region: 'us-east-1', maxAttempts: 1, credentials: { accessKeyId: 'any', secretAccessKey: 'any' },
});

const send = (name, input) => client.send(new lambda[`${name}Command`](input));
const zip = (name) => readFileSync(`${archives}/${name}.zip`);
const text = (bytes) => Buffer.from(bytes ?? []).toString();
const waiting = { client, minDelay: 1, maxDelay: 1, maxWaitTime: 30 };

async function create(name, more = {}) {
  const made = await send('CreateFunction', {
    FunctionName: name, Runtime: runtime, Role: ROLE, Handler: 'index.handler', Code: { ZipFile: zip('echo') }, ...more,
  });
  await lambda.waitUntilFunctionActiveV2(waiting, { FunctionName: name });
  return made;
}

const updated = (name) => lambda.waitUntilFunctionUpdatedV2(waiting, { FunctionName: name });

async function call(name, event = {}, more = {}) {
  const answer = await send('Invoke', { FunctionName: name, Payload: JSON.stringify(event), ...more });
  return [answer, JSON.parse(text(answer.Payload))];
}

/** The work must be refused with this exception of the SDK's own classes. */
async function refused(kind, work) {
  const error = await work().then((done) => assert.fail(`not refused: ${JSON.stringify(done)}`), (e) => e);
  assert.ok(error instanceof lambda[kind], `${error.name}: ${error.message}`);
  return error;
}

async function life() {
  await refused('ResourceNotFoundException', () => send('GetFunction', { FunctionName: 'life' }));
  const made = await create('life', { Environment: { Variables: { A: '1' } }, Tags: { k: 'v' }, MemorySize: 256, Timeout: 5 });
  assert.deepEqual([made.State, made.StateReasonCode, made.Version], ['Pending', 'Creating', '$LATEST']);
  await lambda.waitUntilFunctionExists(waiting, { FunctionName: 'life' });
  const found = await send('GetFunction', { FunctionName: 'life' });
  assert.deepEqual([found.Configuration.State, found.Configuration.MemorySize, found.Tags], ['Active', 256, { k: 'v' }]);
  const context = Buffer.from('{"custom":{"a":"b"}}').toString('base64');
  const [answer, seen] = await call('life', { x: [1, 'é'] }, { LogType: 'Tail', ClientContext: context });
  assert.deepEqual([answer.StatusCode, answer.ExecutedVersion, answer.FunctionError], [200, '$LATEST', undefined]);
  assert.deepEqual([seen.event, seen.custom, seen.arn, seen.A], [{ x: [1, 'é'] }, { a: 'b' }, `${ARN}life`, '1']);
  const tail = Buffer.from(answer.LogResult, 'base64').toString();
  assert.ok(tail.startsWith(`START RequestId: ${answer.$metadata.requestId} Version: $LATEST\n`), tail);
  assert.equal((await send('Invoke', { FunctionName: 'life', InvocationType: 'DryRun' })).StatusCode, 204);
  const [failed, said] = await call('life', { fail: true });
  assert.deepEqual([failed.StatusCode, failed.FunctionError, said.errorType], [200, 'Unhandled', 'RangeError']);
  const changed = await send('UpdateFunctionConfiguration', { FunctionName: 'life', Environment: { Variables: { A: '2' } } });
  assert.equal(changed.LastUpdateStatus, 'InProgress');
  await updated('life');
  assert.equal((await call('life'))[1].A, '2');
  await refused('PreconditionFailedException', () =>
    send('UpdateFunctionCode', { FunctionName: 'life', ZipFile: zip('other'), RevisionId: made.RevisionId }));
  await send('UpdateFunctionCode', { FunctionName: 'life', ZipFile: zip('other') });
  await updated('life');
  assert.equal((await call('life'))[1], 'other');
  const { Code } = await send('GetFunction', { FunctionName: 'life' });
  const back = await fetch(Code.Location);
  assert.deepEqual(Buffer.from(await back.arrayBuffer()), zip('other'));
  await refused('ResourceConflictException', () => create('life'));
  await send('DeleteFunction', { FunctionName: 'life' });
  await refused('ResourceNotFoundException', () => send('Invoke', { FunctionName: 'life' }));
}

async function versions() {
  assert.equal((await create('versions', { Publish: true })).Version, '1');
  await lambda.waitUntilPublishedVersionActive(waiting, { FunctionName: 'versions', Qualifier: '1' });
  await send('UpdateFunctionConfiguration', { FunctionName: 'versions', Environment: { Variables: { A: '2' } } });
  await updated('versions');
  assert.equal((await send('PublishVersion', { FunctionName: 'versions' })).Version, '2');
  const listed = [];
  for await (const page of lambda.paginateListVersionsByFunction({ client, pageSize: 1 }, { FunctionName: 'versions' })) {
    assert.equal(page.Versions.length, 1);
    listed.push(page.Versions[0].Version);
  }
  assert.deepEqual(listed, ['$LATEST', '1', '2']);
  const weights = { AdditionalVersionWeights: { 2: 0.5 } };
  const alias = await send('CreateAlias', { FunctionName: 'versions', Name: 'live', FunctionVersion: '1', RoutingConfig: weights });
  assert.deepEqual([alias.AliasArn, alias.RoutingConfig], [`${ARN}versions:live`, weights]);
  const picked = new Set();
  for (let n = 0; n < 40; n += 1) picked.add((await call('versions', {}, { Qualifier: 'live' }))[0].ExecutedVersion);
  assert.deepEqual([...picked].sort(), ['1', '2']);
  const [answer, seen] = await call(`${ARN}versions:live`);
  assert.deepEqual([seen.arn, seen.version], [`${ARN}versions:live`, answer.ExecutedVersion]);
  const all = { FunctionName: 'versions', Name: 'live', FunctionVersion: '2', RoutingConfig: { AdditionalVersionWeights: {} } };
  assert.equal((await send('UpdateAlias', all)).FunctionVersion, '2');
  assert.equal((await call('versions', {}, { Qualifier: 'live' }))[1].A, '2');
  await refused('ResourceConflictException', () => send('DeleteFunction', { FunctionName: 'versions', Qualifier: '2' }));
  await send('DeleteAlias', { FunctionName: 'versions', Name: 'live' });
  await send('DeleteFunction', { FunctionName: 'versions', Qualifier: '2' });
}

async function layers() {
  const layer = await send('PublishLayerVersion', { LayerName: 'said', Content: { ZipFile: zip('layer') }, CompatibleRuntimes: [runtime] });
  assert.equal(layer.Version, 1);
  await create('layered', { Layers: [layer.LayerVersionArn], Code: { ZipFile: zip('layered') } });
  assert.equal((await call('layered'))[1], 'from the layer');
  const listed = [];
  for await (const page of lambda.paginateListLayers({ client }, {})) listed.push(...page.Layers.map((l) => l.LayerName));
  assert.deepEqual(listed, ['said']);
  await send('DeleteLayerVersion', { LayerName: 'said', VersionNumber: 1 });
}

async function urls() {
  await create('web', { Code: { ZipFile: zip('web') } });
  const made = await send('CreateFunctionUrlConfig', { FunctionName: 'web', AuthType: 'NONE', InvokeMode: 'BUFFERED' });
  await send('AddPermission', {
    FunctionName: 'web', StatementId: 'open', Action: 'lambda:InvokeFunctionUrl', Principal: '*', FunctionUrlAuthType: 'NONE',
  });
  // The name may not resolve on this machine: the path is the same.
  const id = new URL(made.FunctionUrl).hostname.split('.')[0];
  const answer = await fetch(`${url}/lambda-url/${id}/a/b?q=1`, { method: 'POST', body: 'hello' });
  assert.deepEqual([answer.status, answer.headers.get('x-from')], [418, 'web']);
  assert.deepEqual(await answer.json(), { path: '/a/b', query: { q: '1' }, method: 'POST', body: 'hello' });
  await send('DeleteFunctionUrlConfig', { FunctionName: 'web' });
  await refused('ResourceNotFoundException', () => send('GetFunctionUrlConfig', { FunctionName: 'web' }));
}

async function streams() {
  await create('streams');
  const read = async (event) => {
    const answer = await send('InvokeWithResponseStream', { FunctionName: 'streams', Payload: JSON.stringify(event), LogType: 'Tail' });
    assert.deepEqual([answer.StatusCode, answer.ExecutedVersion], [200, '$LATEST']);
    const [parts, ends] = [[], []];
    for await (const frame of answer.EventStream) {
      if (frame.PayloadChunk) parts.push(frame.PayloadChunk.Payload);
      if (frame.InvokeComplete) ends.push(frame.InvokeComplete);
    }
    assert.equal(ends.length, 1);
    return [Buffer.concat(parts).toString(), ends[0]];
  };
  const [body, end] = await read({ big: 'x'.repeat(200_000) });
  assert.equal(JSON.parse(body).event.big.length, 200_000);
  assert.ok(end.LogResult && !end.ErrorCode, JSON.stringify(end));
  assert.equal((await read({ fail: true }))[1].ErrorCode, 'RangeError');
}

async function later() {
  await create('later');
  await create('told');
  await send('PutFunctionEventInvokeConfig', {
    FunctionName: 'later', MaximumRetryAttempts: 0, DestinationConfig: { OnSuccess: { Destination: `${ARN}told` }, OnFailure: { Destination: `${ARN}told` } },
  });
  const taken = await send('Invoke', { FunctionName: 'later', InvocationType: 'Event', Payload: '{"n":7}' });
  assert.deepEqual([taken.StatusCode, text(taken.Payload)], [202, '']);
  await send('Invoke', { FunctionName: 'later', InvocationType: 'Event', Payload: '{"fail":true}' });
  for (const [condition, payload] of [['Success', { n: 7 }], ['RetriesExhausted', { fail: true }]]) {
    const record = await told(condition);
    assert.deepEqual([record.requestPayload, record.requestContext.functionArn], [payload, `${ARN}later:$LATEST`]);
    if (condition === 'Success') assert.equal(record.requestContext.requestId, taken.$metadata.requestId);
  }
}

/** The record that the destination was called with, found in its log. */
async function told(condition) {
  for (let tries = 0; tries < 300; tries += 1) {
    const { logs } = await (await fetch(`${url}/v1/functions/told/logs`)).json();
    const records = logs.map((l) => l.text).filter((t) => t.startsWith('got ')).map((t) => JSON.parse(t.slice(4)));
    const found = records.find((r) => r.requestContext?.condition === condition);
    if (found) return found;
    await sleep(100);
  }
  return assert.fail(`the destination was never told of ${condition}`);
}

async function limits() {
  await create('limits');
  await send('PutFunctionConcurrency', { FunctionName: 'limits', ReservedConcurrentExecutions: 0 });
  const error = await refused('TooManyRequestsException', () => send('Invoke', { FunctionName: 'limits' }));
  assert.equal(error.Reason, 'ReservedFunctionConcurrentInvocationLimitExceeded');
  await send('DeleteFunctionConcurrency', { FunctionName: 'limits' });
  assert.equal((await call('limits'))[0].StatusCode, 200);
  await refused('InvalidParameterValueException', () => create('limits-env', { Environment: { Variables: { AWS_REGION: 'x' } } }));
  await refused('InvalidRequestContentException', () => send('Invoke', { FunctionName: 'limits', Payload: '{no json' }));
}

async function pages() {
  for (let n = 0; n < 3; n += 1) await create(`page-${n}`);
  const names = [];
  for await (const page of lambda.paginateListFunctions({ client, pageSize: 2 }, {})) names.push(...page.Functions.map((f) => f.FunctionName));
  assert.deepEqual(names.filter((n) => n.startsWith('page-')), ['page-0', 'page-1', 'page-2']);
}

for (const story of [life, versions, layers, urls, streams, later, limits, pages]) {
  await story();
  console.log('ok', story.name);
}
