// The front before a server that answers as OpenClaw does.

import assert from 'node:assert/strict';
import http from 'node:http';
import { once } from 'node:events';
import test from 'node:test';

import { Front, MAX_TURNS, Renamed, question } from './front.mjs';

const TOKEN = 'token-of-this-start';
const USER = { role: 'user', content: 'hello' };

// A server in OpenClaw's place: `answers(body, response, request)` says what a turn is answered.
async function openclaw(answers) {
  const asked = [];
  const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) {
      parts.push(part);
    }
    const body = parts.length ? JSON.parse(Buffer.concat(parts)) : null;
    asked.push({ path: request.url, authorization: request.headers.authorization, body });
    if (request.url === '/readyz') {
      const isReady = asked.filter((one) => one.path === '/readyz').length > 1;
      response.writeHead(isReady ? 200 : 503).end(JSON.stringify({ ready: isReady }));
    } else {
      answers(body, response, request);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, asked, port: server.address().port };
}

async function fronted(t, answers, { model = 'm-1', turn = 60_000, isAlive } = {}) {
  const inner = await openclaw(answers);
  const logged = [];
  const gateway = { host: '127.0.0.1', port: inner.port, token: TOKEN };
  const front = new Front({ gateway, model, turn, isAlive, log: (line) => logged.push(line) });
  const port = await front.listen(0, '127.0.0.1');
  t.after(() => {
    front.close();
    inner.server.close();
    inner.server.closeAllConnections();
  });
  const ask = (path, init) => fetch(`http://127.0.0.1:${port}${path}`, init);
  const chat = (body, init) => ask('/v1/chat/completions', { method: 'POST', body: JSON.stringify(body), ...init });
  return { inner, front, logged, ask, chat };
}

const says = (text) => (body, response) => {
  const message = { role: 'assistant', content: text };
  response.end(JSON.stringify({ id: 'x', model: body.model, choices: [{ index: 0, message, finish_reason: 'stop' }] }));
};

test('a turn is asked with the token of this start, which no caller gives or gets', async (t) => {
  const { inner, chat } = await fronted(t, says('hi'));
  const answer = await chat({ model: 'any', messages: [USER] }, { headers: { Authorization: 'Bearer of-the-caller' } });
  const said = await answer.text();
  assert.equal(answer.status, 200);
  assert.equal(JSON.parse(said).choices[0].message.content, 'hi');
  assert.equal(JSON.parse(said).model, 'm-1');
  assert.equal(inner.asked[0].authorization, `Bearer ${TOKEN}`);
  assert.equal(inner.asked[0].body.model, 'openclaw/default');
  assert.ok(!said.includes(TOKEN) && ![...answer.headers.values()].some((value) => value.includes(TOKEN)));
});

test('callers reach chat, models and health, and nothing else of OpenClaw', async (t) => {
  const { inner, ask } = await fronted(t, says('hi'));
  for (const path of ['/', '/readyz', '/v1/responses', '/tools/invoke', '/v1/chat/completions/../../tools/invoke', '/api/v1/admin/rpc']) {
    assert.equal((await ask(path, { method: 'POST', body: '{}' })).status, 404, path);
  }
  assert.equal((await ask('/v1/chat/completions')).status, 405);
  assert.deepEqual((await (await ask('/v1/models')).json()).data.map((one) => one.id), ['m-1']);
  assert.equal((await ask('/health')).status, 200);
  assert.deepEqual(inner.asked, []);
});

test('what a caller may set of a turn is passed on, and what is OpenClaw\'s own is not', () => {
  const asked = question({
    messages: [USER], temperature: 0.5, tools: [], stream: true, user: 'u', session_id: 's', model: 'other', 'x-openclaw': 1, metadata: {},
  });
  assert.deepEqual(Object.keys(asked).sort(), ['messages', 'model', 'stream', 'temperature', 'tools', 'user']);
});

test('one message goes on with a conversation that is kept, and a history is about itself alone', () => {
  const named = (more) => question({ messages: [USER], ...more }).user;
  assert.equal(named({}), named({ user: 'default' }));
  assert.equal(named({ session_id: 'a' }), named({ user: 'a' }));
  assert.notEqual(named({}), named({ session_id: 'a' }));
  // A name that OpenClaw would read as one of its own sessions is none.
  assert.match(named({ user: 'agent:main:cron:1' }), /^c-[0-9a-f]{32}$/);
  assert.equal(question({ messages: [USER, { role: 'assistant', content: 'hi' }, USER], user: 'a' }).user, undefined);
});

test('a request that cannot be answered is refused with the field, before OpenClaw is asked', async (t) => {
  const { inner, chat, ask } = await fronted(t, says('hi'));
  const odd = [
    [[], null], [{}, 'messages'], [{ messages: [] }, 'messages'], [{ messages: ['x'] }, 'messages'],
    [{ messages: [USER], user: 7 }, 'session_id'], [{ messages: [USER], session_id: 'x'.repeat(101) }, 'session_id'],
    [{ messages: [USER], session_id: 'a\nb' }, 'session_id'],
  ];
  for (const [body, param] of odd) {
    const answer = await chat(body);
    const { error } = await answer.json();
    assert.deepEqual([answer.status, error.param, error.type], [400, param, 'invalid_request_error'], JSON.stringify(body));
  }
  assert.equal((await ask('/v1/chat/completions', { method: 'POST', body: 'no json' })).status, 400);
  assert.equal((await ask('/v1/chat/completions', { method: 'POST', body: Buffer.alloc((8 << 20) + 1) })).status, 413);
  assert.deepEqual(inner.asked, []);
});

test('without a model each turn says what is missing, and the agent is ready all the same', async (t) => {
  const { inner, chat, ask } = await fronted(t, says('hi'), { model: '' });
  const answer = await chat({ messages: [USER] });
  const { error } = await answer.json();
  assert.deepEqual([answer.status, error.type], [503, 'model_not_configured']);
  assert.match(error.message, /OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL/);
  assert.deepEqual((await (await ask('/v1/models')).json()).data, []);
  assert.deepEqual(inner.asked, []);
});

test('the agent is ready when OpenClaw says so, and not alive when it ended', async (t) => {
  let lives = true;
  const { front, ask, inner } = await fronted(t, says('hi'), { isAlive: () => lives });
  assert.equal((await ask('/ready')).status, 503);
  assert.equal((await ask('/ready')).status, 200);
  lives = false;
  assert.equal((await ask('/health')).status, 503);
  inner.server.close();
  inner.server.closeAllConnections();
  front.gateway.port = inner.port;
  assert.equal((await ask('/ready')).status, 503);
});

test('a stream is passed on as it comes, with the model\'s name, wherever it is cut', async (t) => {
  const events = ['Grüße', ' 🦊', 'end'].map((content) => `data: ${JSON.stringify({ model: 'openclaw/default', choices: [{ delta: { content } }] })}\n\n`);
  const whole = Buffer.from(`${events.join('')}data: [DONE]\n\n`);
  for (const at of whole.keys()) {
    const renamed = new Renamed('m-1');
    const said = renamed.take(whole.subarray(0, at)) + renamed.take(whole.subarray(at)) + renamed.rest;
    assert.equal(said, whole.toString().replaceAll('openclaw/default', 'm-1'));
  }
  let more;
  const first = new Promise((resolve) => { more = resolve; });
  const { chat } = await fronted(t, async (body, response) => {
    assert.equal(body.stream, true);
    response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' });
    response.write(events[0]);
    await first;
    response.end(`${events[1]}data: [DONE]\n\n`);
  });
  const answer = await chat({ messages: [USER], stream: true });
  const reader = answer.body.getReader();
  const begun = Buffer.from((await reader.read()).value).toString();
  assert.ok(begun.includes('Grüße') && begun.includes('"m-1"'), begun);
  more();
  let rest = '';
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    rest += Buffer.from(part.value).toString();
  }
  assert.ok(rest.includes('🦊') && rest.endsWith('data: [DONE]\n\n'), rest);
});

test('whoever hangs up ends the turn, and makes room for another', async (t) => {
  let ended;
  const gone = new Promise((resolve) => { ended = resolve; });
  const { front, chat } = await fronted(t, (_, response) => response.once('close', ended));
  const hangs = new AbortController();
  const asked = chat({ messages: [USER] }, { signal: hangs.signal });
  while (front.turns === 0) {
    await new Promise(setImmediate);
  }
  hangs.abort();
  await assert.rejects(asked);
  await gone;
  while (front.turns > 0) {
    await new Promise(setImmediate);
  }
});

test('turns are bounded in number and in time', async (t) => {
  const { front, chat } = await fronted(t, () => {}, { turn: 50 });
  const slow = await chat({ messages: [USER] });
  assert.deepEqual([slow.status, (await slow.json()).error.message], [504, 'the turn took more than 0.05 s']);
  front.turns = MAX_TURNS;
  const answer = await chat({ messages: [USER] });
  assert.deepEqual([answer.status, (await answer.json()).error.type], [429, 'rate_limit_error']);
});

test('what goes wrong inside is told in OpenAI\'s shape, and what is not for callers is in the log', async (t) => {
  const refusals = [
    [429, { error: { message: 'slow down', type: 'rate_limit_error', secret: TOKEN } }, [429, 'slow down', 'rate_limit_error']],
    [401, { error: { message: 'unauthorized', type: 'unauthorized' } }, [502, 'unauthorized', 'server_error']],
    [500, { error: { message: 'model down', type: 'api_error' } }, [502, 'model down', 'api_error']],
  ];
  for (const [status, body, expected] of refusals) {
    const { chat } = await fronted(t, (_, response) => response.writeHead(status).end(JSON.stringify(body)));
    const answer = await chat({ messages: [USER] });
    const said = await answer.text();
    const { error } = JSON.parse(said);
    assert.deepEqual([answer.status, error.message, error.type], expected);
    assert.ok(!said.includes(TOKEN));
  }
  const { chat, logged } = await fronted(t, (_, response) => response.destroy());
  const answer = await chat({ messages: [USER] });
  assert.deepEqual([answer.status, (await answer.json()).error.message], [502, 'the agent failed; its log says how']);
  assert.equal(logged.length, 1);
});
