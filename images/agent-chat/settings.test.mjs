import assert from 'node:assert/strict';
import test from 'node:test';

import { Unusable, environment, over, settings, upstream } from './settings.mjs';

const ENV = {
  OPENAI_BASE_URL: 'http://models.example/v1', OPENAI_API_KEY: 'sk-canary', OPENAI_MODEL: 'm-1', AGENT_TOOLS: 'exec, read',
};

test('the environment names the model, and its key is written nowhere', () => {
  const config = settings(ENV, '/data', {});
  const { baseUrl, api, apiKey, models } = config.models.providers.upstream;
  assert.deepEqual([baseUrl, api, apiKey], ['http://models.example/v1', 'openai-completions', '${OPENAI_API_KEY}']);
  assert.deepEqual([models[0].id, models[0].contextWindow], ['m-1', 128_000]);
  assert.equal(config.agents.defaults.model.primary, 'upstream/m-1');
  assert.deepEqual(config.tools.allow, ['exec', 'read']);
  assert.equal(config.agents.defaults.workspace, '/data/workspace');
  assert.ok(!JSON.stringify(config).includes('sk-canary'));
});

test('a server without a key is asked with a word for one, and a key without a server goes to OpenAI', () => {
  const keyless = settings({ ...ENV, OPENAI_API_KEY: '' }, '/data', {}).models.providers.upstream;
  assert.equal(keyless.apiKey, 'none');
  const plain = settings({ ...ENV, OPENAI_BASE_URL: ' ' }, '/data', {}).models.providers.upstream;
  assert.equal(plain.baseUrl, 'https://api.openai.com/v1');
});

test('without a model there is an agent that can be worked with all the same', () => {
  for (const missing of [{ OPENAI_MODEL: '' }, { OPENAI_BASE_URL: '', OPENAI_API_KEY: '' }]) {
    const env = { ...ENV, ...missing };
    assert.equal(upstream(env).model, '');
    assert.equal(settings(env, '/data', {}).models, undefined);
  }
});

test("the owner's own configuration changes what suits and not what must be", () => {
  const own = {
    tools: { allow: ['read'] },
    skills: { entries: {} },
    gateway: { bind: 'lan', port: 1, auth: { mode: 'none', token: 'x' }, controlUi: { enabled: true } },
  };
  const config = settings(ENV, '/data', own);
  assert.deepEqual(config.tools.allow, ['read']);
  assert.deepEqual(config.skills, { entries: {} });
  assert.equal(config.gateway.controlUi.enabled, true);
  assert.deepEqual([config.gateway.bind, config.gateway.port, config.gateway.auth], ['loopback', 18789, { mode: 'password' }]);
  assert.throws(() => settings(ENV, '/data', []), Unusable);
});

test('what cannot be used is named with what was expected', () => {
  const odd = [
    [{ OPENAI_BASE_URL: 'models.example' }, /OPENAI_BASE_URL is "models.example", which is no http or https URL/],
    [{ OPENAI_BASE_URL: 'file:///etc' }, /no http or https URL/],
    [{ OPENAI_CONTEXT_WINDOW: '12' }, /OPENAI_CONTEXT_WINDOW is "12", which is not from 1024 to/],
    [{ OPENAI_CONTEXT_WINDOW: '1e9' }, /which is not from 1024 to/],
    [{ AGENT_TOOLS: '' }, /AGENT_TOOLS is "", which is no list/],
    [{ AGENT_TOOLS: 'exec;rm' }, /AGENT_TOOLS is "exec;rm"/],
  ];
  for (const [env, said] of odd) {
    assert.throws(() => settings({ ...ENV, ...env }, '/data', {}), (error) => error instanceof Unusable && said.test(error.message));
  }
});

test('tables are merged, all else is replaced, null takes away, and a name of JavaScript is a name like another', () => {
  assert.deepEqual(over({ a: 1, b: 2 }, { a: null, c: { d: null } }), { b: 2, c: {} });
  assert.deepEqual(over({ a: { b: 1, c: [1, 2] }, d: 1 }, { a: { c: [3] }, d: { e: 2 } }), { a: { b: 1, c: [3] }, d: { e: 2 } });
  assert.deepEqual(over({}, JSON.parse('{"toString": {"a": 1}}')), { toString: { a: 1 } });
});

test('what opens OpenClaw is in no environment, where its tools would show it', () => {
  const env = environment(ENV, '/data');
  assert.ok(!Object.keys(env).some((name) => /GATEWAY_(TOKEN|PASSWORD)/.test(name)));
  assert.equal(env.OPENCLAW_CONFIG_PATH, '/data/.openclaw/run.json');
});
