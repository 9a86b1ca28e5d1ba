// What callers reach of OpenClaw: chat, models and health.
//
//     GET  /health, /ready       whether it is alive, and usable
//     GET  /v1/models            the one model
//     POST /v1/chat/completions  a turn, with or without `stream`
//
// OpenClaw's own server takes a token that opens all of it to whoever has it. That token is
// made at each start, and goes with what we ask it alone. Who calls us is the gateway's to decide.
//
// A request with one message of the user's goes on with the agent's own conversation
// (`session_id` or `user` names another one), which it keeps. One that brings a history is
// about that history alone.

import http from 'node:http';
import { createHash } from 'node:crypto';
import { StringDecoder } from 'node:string_decoder';

// Bytes of a request at most.
const MAX_BODY = 8 << 20;
// Bytes of an answer, or of one event of a stream, at most.
const MAX_ANSWER = 32 << 20;
// Turns that wait or work at once.
export const MAX_TURNS = 16;
// Characters of a conversation's name.
const MAX_SESSION = 100;
// Milliseconds that a request may take to arrive, and a question about health to be answered.
const ARRIVAL = 60_000;
const PROBE = 5_000;
// Milliseconds between two signs of life while a turn's tools work.
const ALIVE = 15_000;
// What is said when the model's server was not named.
const NO_MODEL = 'no model is configured: spawn with OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL in env';
// What OpenClaw calls the agent.
const AGENT = 'openclaw/default';
// What of a request is OpenClaw's to read.
const PASSED = [
  'messages', 'stream', 'stream_options', 'temperature', 'top_p', 'max_tokens', 'max_completion_tokens', 'stop', 'seed',
  'presence_penalty', 'frequency_penalty', 'tools', 'tool_choice',
];
const ROUTES = {
  '/health': 'GET', '/ready': 'GET', '/v1/models': 'GET', '/v1/chat/completions': 'POST',
};

// A request that cannot be answered, as OpenAI says it.
export class Refused extends Error {
  constructor(status, message, type = 'invalid_request_error', param = null) {
    super(message);
    Object.assign(this, { status, type, param });
  }

  body() {
    return { error: { message: this.message, type: this.type, param: this.param, code: null } };
  }
}

// The name of the conversation that a request goes on with; null for one that brings its own.
export function conversation(body) {
  const name = body.session_id ?? body.user ?? 'default';
  if (typeof name !== 'string' || name === '' || name.length > MAX_SESSION || /\p{C}/u.test(name)) {
    throw new Refused(400, `session_id must be a text of 1 to ${MAX_SESSION} printable characters`, undefined, 'session_id');
  }
  const brings = body.messages.some((message) => ['assistant', 'tool', 'function'].includes(message.role));
  return brings ? null : name;
}

// What OpenClaw is asked, for a request's body.
export function question(body) {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new Refused(400, 'the body must be a JSON object');
  }
  const { messages } = body;
  if (!Array.isArray(messages) || messages.length === 0 || messages.some((one) => typeof one?.role !== 'string')) {
    throw new Refused(400, 'messages must be a list of at least one message, each with a role', undefined, 'messages');
  }
  const name = conversation(body);
  const asked = Object.fromEntries(PASSED.filter((field) => body[field] !== undefined).map((field) => [field, body[field]]));
  // OpenClaw makes keys of what it is given here: of any text one that has no meaning of its own.
  const user = name === null ? {} : { user: `c-${createHash('sha256').update(name).digest('hex').slice(0, 32)}` };
  return { ...asked, model: AGENT, ...user };
}

// The lines of a stream, with the model's name in the place of OpenClaw's.
export class Renamed {
  constructor(model) {
    this.model = model;
    this.text = new StringDecoder('utf8');
    this.rest = '';
  }

  take(bytes) {
    const lines = (this.rest + this.text.write(bytes)).split('\n');
    this.rest = lines.pop();
    if (this.rest.length > MAX_ANSWER) {
      throw new Error('an event of the stream has no end');
    }
    return lines.map((line) => `${this.line(line)}\n`).join('');
  }

  line(line) {
    if (!line.startsWith('data: {')) {
      return line;
    }
    const event = JSON.parse(line.slice(6));
    return `data: ${JSON.stringify(event.error ? { error: outside(event.error) } : { ...event, model: this.model })}`;
  }
}

// An error of OpenClaw's, without what it says of itself.
function outside(error) {
  return { message: String(error?.message ?? 'the agent failed; its log says how'), type: String(error?.type ?? 'server_error'), param: null, code: null };
}

// The body of a request or of an answer, of so many bytes at most.
async function whole(from, most) {
  const parts = [];
  let size = 0;
  for await (const part of from) {
    size += part.length;
    if (size > most) {
      throw new Refused(413, `the body may have ${most} bytes`);
    }
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function parsed(bytes, otherwise) {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    throw otherwise;
  }
}

function say(response, status, body) {
  const text = JSON.stringify(body);
  response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) });
  response.end(text);
}

// The server. `gateway` is OpenClaw's address and the token that opens it, `model` the model's
// name ('' where none is configured), `turn` the milliseconds that a turn may take.
export class Front {
  constructor({ gateway, model, turn, isAlive = () => true, log = console.error }) {
    Object.assign(this, { gateway, model, turn, isAlive, log, turns: 0 });
    // Turns of one conversation go on over connections of their own.
    this.agent = new http.Agent({ keepAlive: false });
    this.server = http.createServer({ requestTimeout: ARRIVAL, headersTimeout: ARRIVAL }, (request, response) => {
      this.answer(request, response).catch((error) => this.fail(response, error));
    });
  }

  listen(port, host = '0.0.0.0') {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(port, host, () => resolve(this.server.address().port));
    });
  }

  close() {
    this.server.close();
    this.server.closeAllConnections();
  }

  async answer(request, response) {
    const path = URL.canParse(request.url, 'http://agent') ? new URL(request.url, 'http://agent').pathname : request.url;
    if (!Object.hasOwn(ROUTES, path)) {
      throw new Refused(404, `there is no ${path} here: there are ${Object.keys(ROUTES).join(', ')}`);
    }
    if (request.method !== ROUTES[path]) {
      throw new Refused(405, `${path} takes ${ROUTES[path]}`);
    }
    switch (path) {
      case '/health':
        return this.isAlive() ? say(response, 200, { status: 'ok' }) : say(response, 503, { status: 'ended' });
      case '/ready':
        return (await this.isReady()) ? say(response, 200, { status: 'ok' }) : say(response, 503, { status: 'starting' });
      case '/v1/models':
        return say(response, 200, this.models());
      default:
        return this.chat(request, response);
    }
  }

  models() {
    const names = this.model ? [this.model] : [];
    return { object: 'list', data: names.map((id) => ({ id, object: 'model', created: 0, owned_by: 'palatine' })) };
  }

  // Whether OpenClaw says that it is.
  async isReady() {
    try {
      const { answer } = await this.ask('GET', '/readyz', null, AbortSignal.timeout(PROBE));
      const said = parsed(await whole(answer, MAX_ANSWER), new Error('no JSON'));
      return answer.statusCode === 200 && said.ready !== false;
    } catch {
      return false;
    }
  }

  async chat(request, response) {
    const bytes = await whole(request, MAX_BODY);
    const asked = question(parsed(bytes, new Refused(400, 'the body must be JSON')));
    if (!this.model) {
      throw new Refused(503, NO_MODEL, 'model_not_configured');
    }
    if (this.turns >= MAX_TURNS) {
      throw new Refused(429, `${MAX_TURNS} turns are under way: try again later`, 'rate_limit_error');
    }
    this.turns += 1;
    const end = new AbortController();
    // Whoever asked is gone, or it took too long: then OpenClaw ends the turn.
    const timer = setTimeout(() => end.abort('slow'), this.turn);
    response.once('close', () => end.abort('gone'));
    try {
      await this.pass(asked, response, end.signal);
    } catch (error) {
      if (end.signal.reason === 'gone') {
        return;
      }
      const slow = new Refused(504, `the turn took more than ${this.turn / 1000} s`, 'server_error');
      throw end.signal.reason === 'slow' ? slow : error;
    } finally {
      clearTimeout(timer);
      this.turns -= 1;
    }
  }

  // A turn: asks OpenClaw and passes on what it says.
  async pass(asked, response, signal) {
    // A stream begins at once, and shows that it lives while OpenClaw's tools work.
    const sign = asked.stream ? setInterval(() => this.live(response), ALIVE) : null;
    try {
      const { answer } = await this.ask('POST', '/v1/chat/completions', JSON.stringify(asked), signal);
      const kind = answer.headers['content-type'] ?? '';
      if (answer.statusCode === 200 && kind.startsWith('text/event-stream')) {
        return await this.stream(answer, response);
      }
      const said = parsed(await whole(answer, MAX_ANSWER), new Refused(502, 'the agent answered what is no JSON', 'server_error'));
      if (answer.statusCode !== 200) {
        throw this.refusal(answer.statusCode, said.error);
      }
      return say(response, 200, { ...said, model: this.model });
    } finally {
      clearInterval(sign);
    }
  }

  // What OpenClaw refuses: whoever called gave no credentials, so that none can be wrong.
  refusal(status, error) {
    const { message, type } = outside(error);
    const inner = status === 401 || status === 403;
    return new Refused(inner || status >= 500 ? 502 : status, message, inner ? 'server_error' : type);
  }

  live(response) {
    this.begin(response);
    response.write(': the turn goes on\n\n');
  }

  begin(response) {
    if (!response.headersSent) {
      response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
    }
  }

  async stream(answer, response) {
    this.begin(response);
    const renamed = new Renamed(this.model);
    for await (const part of answer) {
      if (!response.write(renamed.take(part))) {
        await new Promise((resolve) => {
          response.once('drain', resolve);
          response.once('close', resolve);
        });
      }
    }
    response.end(renamed.rest);
  }

  ask(method, path, body, signal) {
    const { host, port, token } = this.gateway;
    const headers = body === null ? {} : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) };
    headers.Authorization = `Bearer ${token}`;
    return new Promise((resolve, reject) => {
      const asked = http.request({ host, port, method, path, headers, signal, agent: this.agent });
      asked.once('response', (answer) => resolve({ answer }));
      asked.once('error', reject);
      asked.end(body ?? undefined);
    });
  }

  fail(response, error) {
    const refused = error instanceof Refused ? error : new Refused(502, 'the agent failed; its log says how', 'server_error');
    if (refused !== error) {
      this.log(`a request failed: ${error?.stack ?? error}`);
    }
    if (response.destroyed || response.writableEnded) {
      return;
    }
    if (response.headersSent) {
      response.end(`data: ${JSON.stringify(refused.body())}\n\n`);
      return;
    }
    // A body that was not read may still come.
    response.setHeader('Connection', 'close');
    say(response, refused.status, refused.body());
  }
}
