// What OpenClaw is told: the owner's own configuration, over what suits an agent in a
// sandbox and under what must be so in one. Pure.

// Where OpenClaw itself listens: for us, on the loopback address alone.
export const GATEWAY_PORT = 18789;
// The owner's own configuration, and that of one start, in the state's folder.
export const OWN_CONFIG = '.openclaw/openclaw.json';
export const RUN_CONFIG = '.openclaw/run.json';
// The provider that the environment names, as OpenClaw calls it.
const PROVIDER = 'upstream';
const OPENAI = 'https://api.openai.com/v1';
// Tokens that a model is taken to understand at once, unless the environment says otherwise.
const CONTEXT_WINDOW = 128_000;
const MAX_CONTEXT_WINDOW = 10_000_000;
// Tokens of one answer.
const MAX_TOKENS = 8_192;
// Seconds that a turn may take.
export const TURN_SECONDS = 900;

// A variable that cannot be used.
export class Unusable extends Error {}

// What the environment says about the model, of which `model` is empty where it does not say one.
export function upstream(env) {
  const said = (name) => (env[name] ?? '').trim();
  const url = said('OPENAI_BASE_URL');
  if (url && !/^https?:$/.test(URL.canParse(url) ? new URL(url).protocol : '')) {
    throw new Unusable(`OPENAI_BASE_URL is ${JSON.stringify(url)}, which is no http or https URL`);
  }
  const window = said('OPENAI_CONTEXT_WINDOW') || String(CONTEXT_WINDOW);
  const tokens = /^\d+$/.test(window) ? Number(window) : 0;
  if (tokens < 1024 || tokens > MAX_CONTEXT_WINDOW) {
    throw new Unusable(`OPENAI_CONTEXT_WINDOW is ${JSON.stringify(window)}, which is not from 1024 to ${MAX_CONTEXT_WINDOW} tokens`);
  }
  const named = url || said('OPENAI_API_KEY');
  return { url: url || OPENAI, model: named ? said('OPENAI_MODEL') : '', tokens, hasKey: said('OPENAI_API_KEY') !== '' };
}

// The tools that the image has, and the owner may change.
function tools(env) {
  const names = (env.AGENT_TOOLS ?? '').split(',').map((name) => name.trim()).filter(Boolean);
  const odd = names.find((name) => !/^[a-z_*:]+$/.test(name));
  if (odd !== undefined || names.length === 0) {
    throw new Unusable(`AGENT_TOOLS is ${JSON.stringify(env.AGENT_TOOLS ?? '')}, which is no list such as exec,read,write`);
  }
  return names;
}

// What the owner's own configuration may change.
function suits(env, state) {
  return {
    agents: {
      defaults: {
        workspace: env.AGENT_WORKSPACE || `${state}/workspace`,
        skipBootstrap: true,
        // It works when it is asked: nobody pays for what nobody asked.
        heartbeat: { every: '0m' },
        utilityModel: '',
        timeoutSeconds: TURN_SECONDS,
      },
    },
    tools: { allow: tools(env), exec: { mode: 'full' } },
    gateway: { controlUi: { enabled: false }, terminal: { enabled: false } },
    // It is updated with its image.
    update: { checkOnStart: false },
    // Each answer would be in the log.
    logging: { level: 'warn', consoleLevel: 'warn' },
  };
}

// What must be so here, whatever else is said.
function must(env) {
  const forced = {
    gateway: {
      mode: 'local',
      port: GATEWAY_PORT,
      bind: 'loopback',
      auth: { mode: 'password', password: null, token: null },
      http: { endpoints: { chatCompletions: { enabled: true } } },
    },
  };
  const { url, model, tokens, hasKey } = upstream(env);
  if (model) {
    const row = { id: model, name: model, reasoning: false, input: ['text'], contextWindow: tokens, maxTokens: MAX_TOKENS };
    const provider = { baseUrl: url, api: 'openai-completions', models: [row] };
    // The key itself is written nowhere. A server that wants none is sent a word for one.
    provider.apiKey = hasKey ? '${OPENAI_API_KEY}' : 'none';
    forced.models = { providers: { [PROVIDER]: provider } };
    forced.agents = { defaults: { model: { primary: `${PROVIDER}/${model}` } } };
  }
  return forced;
}

const isTable = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

// One configuration over another: tables are merged, all else is replaced, and null takes away.
export function over(below, above) {
  if (!isTable(above)) {
    return above;
  }
  const merged = isTable(below) ? { ...below } : {};
  for (const [name, value] of Object.entries(above)) {
    if (value === null) {
      delete merged[name];
    } else {
      merged[name] = over(Object.hasOwn(merged, name) ? merged[name] : undefined, value);
    }
  }
  return merged;
}

// OpenClaw's configuration, from the environment, the state's folder and the owner's own.
export function settings(env, state, own) {
  if (!isTable(own)) {
    throw new Unusable(`${OWN_CONFIG} holds no table`);
  }
  return over(over(suits(env, state), own), must(env));
}

// What the environment of OpenClaw, and of what its tools start, has beside ours.
export function environment(env, state) {
  return {
    ...env,
    OPENCLAW_STATE_DIR: `${state}/.openclaw`,
    OPENCLAW_CONFIG_PATH: `${state}/${RUN_CONFIG}`,
    OPENCLAW_NO_AUTO_UPDATE: '1',
    OPENCLAW_DISABLE_BONJOUR: '1',
    OPENCLAW_OFFLINE: '1',
    // What it compiles at its first start is there at the next; it would start itself anew to
    // find its cache below this folder, and stay twice in memory.
    NODE_COMPILE_CACHE: `${state}/.cache/node`,
    OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED: '1',
    // Its many threads would each keep memory that others freed.
    MALLOC_ARENA_MAX: '2',
  };
}
