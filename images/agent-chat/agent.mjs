// Starts OpenClaw, and serves what callers reach of it.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { Front } from './front.mjs';
import { GATEWAY_PORT, OWN_CONFIG, RUN_CONFIG, TURN_SECONDS, Unusable, environment, settings, upstream } from './settings.mjs';

const PACKAGE = '/opt/agent/node_modules/openclaw';
// MiB of each half of the young objects' memory: OpenClaw's many threads have one each.
const YOUNG = 4;
// Milliseconds between two looks whether OpenClaw is ready.
const LOOK = 250;
// Milliseconds that OpenClaw has to end.
const END = 20_000;

// The owner's own configuration: JSON with comments, as OpenClaw reads it.
function own(file) {
  let text;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') {
      return {};
    }
    throw error;
  }
  try {
    return createRequire(`${PACKAGE}/package.json`)('json5').parse(text);
  } catch (error) {
    throw new Unusable(`${file} cannot be read: ${error.message}; mend it or move it away`);
  }
}

// Writes the configuration of this start, whole or not at all. The owner's own stays as it is.
function configure(state) {
  const file = join(state, RUN_CONFIG);
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const config = settings(process.env, state, own(join(state, OWN_CONFIG)));
  // The workspace may be a link to the first of these.
  for (const folder of [join(state, 'workspace'), config.agents.defaults.workspace]) {
    mkdirSync(folder, { recursive: true });
  }
  writeFileSync(`${file}.new`, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 });
  renameSync(`${file}.new`, file);
  return config;
}

// Starts OpenClaw in its workspace. What it says is our log. What opens it lies in a file until it has read it: its
// environment is that of every command of its tools, whose output callers are told.
function start(config, state, secret) {
  const words = [`--max-semi-space-size=${YOUNG}`, `${PACKAGE}/openclaw.mjs`, 'gateway', 'run', '--port', String(GATEWAY_PORT), '--bind', 'loopback', '--compact', '--auth', 'password', '--password-file', secret];
  const env = environment(process.env, state);
  return spawn(process.execPath, words, { cwd: config.agents.defaults.workspace, env, stdio: ['ignore', 'inherit', 'inherit'] });
}

async function main() {
  const state = process.env.STATE_DIR || '/data';
  const { model } = upstream(process.env);
  const config = configure(state);
  const token = randomBytes(32).toString('base64url');
  const folder = mkdtempSync(join(tmpdir(), 'agent-'));
  const forget = () => rmSync(folder, { recursive: true, force: true });
  writeFileSync(join(folder, 'secret'), token, { mode: 0o600 });
  const openclaw = start(config, state, join(folder, 'secret'));
  const gateway = { host: '127.0.0.1', port: GATEWAY_PORT, token };
  const isAlive = () => openclaw.exitCode === null && openclaw.signalCode === null;
  const front = new Front({ gateway, model, turn: TURN_SECONDS * 1000, isAlive });
  let asked = false;
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.on(signal, () => {
      asked = true;
      openclaw.kill('SIGTERM');
      setTimeout(() => openclaw.kill('SIGKILL'), END).unref();
    });
  }
  // Its end is ours: who supervises us starts both again.
  openclaw.once('error', (error) => {
    forget();
    console.error(`OpenClaw does not start: ${error.message}`);
    process.exit(1);
  });
  openclaw.once('exit', (code, signal) => {
    forget();
    front.close();
    console.error(`OpenClaw ended with ${signal ?? `exit code ${code}`}`);
    process.exit(asked ? 0 : code || 1);
  });
  const port = await front.listen(Number(process.env.PORT || '8080'));
  console.log(`${process.env.AGENT_NAME || 'the agent'} listens on port ${port}`);
  while (!(await front.isReady())) {
    await sleep(LOOK);
  }
  forget();
}

main().catch((error) => {
  console.error(error instanceof Unusable ? error.message : error);
  process.exit(1);
});
