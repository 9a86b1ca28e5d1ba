// A Solana on this machine, for development and tests: surfpool, offline, with
// the real SPL Token and Token-2022 programs, and a token of our own on it.
//
//   node chain.mjs [--port N] [--journal FILE] [--slot-ms N]
//
//   --port     where it answers, on loopback (0, the default: any free port)
//   --journal  every command that changed something is written there before it is
//              answered; the next start with that file does them again, and so has
//              the same mints, accounts and balances. A chain that hangs can be
//              killed and started anew: nobody has to ask it for what it held.
//   --slot-ms  a slot for every so many milliseconds, whether or not there is a
//              transaction: a test sees hours of slots in seconds (also as the
//              variable PALATINE_SOLANA_SLOT_MS, through who starts this)
//
// When it is up it prints one line: {"rpc", "mint", "decimals", "program"}. Then
// each line on standard input is one command, and each gets one line in answer,
// in order: {"ok": true, …} or {"ok": false, "error"}. It ends when standard
// input closes, so it never outlives whoever started it.
//
//   {"do": "mint", "program": "token-2022", "decimals": 9}         another token: {"mint"}
//   {"do": "fund", "wallet", "amount": 1000000}                    whole tokens more
//   {"do": "fund", "wallet", "amount": "0.5", "fresh": true}       … in a new account of the same wallet
//   {"do": "transfer", "secret": [64 numbers], "to", "amount"}     signed by the holder
//   {"do": "freeze", "wallet"}, {"do": "thaw", "wallet"}           by the mint's authority
//   {"do": "set", "wallet", "amount": 10}                          exactly this much
//
// Each takes "mint" for another token than the first. All are real transactions,
// but for "set": only a holder can sign tokens away, and `set` needs no holder,
// so it writes the account behind the program's back.

import { createHash, randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createServer, connect } from 'node:net';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { base58 } from '@scure/base';
import * as sol from 'micro-sol-signer';

// A native module: `import` does not load those.
const { Surfnet } = createRequire(import.meta.url)('@solana/surfpool-linux-x64-gnu');

const PROGRAMS = {
  'spl-token': sol.TOKEN_PROGRAM,
  'token-2022': 'TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb',
};
const DECIMALS = 6;
const MINT_BYTES = 82;
const ACCOUNT_BYTES = 165;
const PAYER_LAMPORTS = 1e13;
const LONGEST_LINE = 64 * 1024;
const CONFIRM_MS = 10_000;
const POLL_MS = 10;
const MAX_U64 = 2n ** 64n - 1n;
// surfpool tells of each slot and each transaction through a channel that holds
// 1,024 events, and stops for good when it is full. It fills in 81 seconds.
const DRAIN_MS = 100;
// Commands in a journal at most: doing them again takes some 10 ms each.
const JOURNAL_MOST = 1000;
// Connections at once to a port of our choosing.
const CONNECTIONS_MOST = 256;

// The same at each start, so that configurations may name the mint. Worth nothing.
const devKey = (name) => new Uint8Array(createHash('sha256').update(`palatine dev ${name}`).digest());
const newKey = () => new Uint8Array(randomBytes(32));

class Chain {
  constructor(slotMs) {
    const slots = slotMs ? { blockProductionMode: 'clock', slotTimeMs: slotMs } : { blockProductionMode: 'transaction' };
    this.payerKey = devKey('payer');
    this.payer = sol.getAddress(this.payerKey);
    const payerSecretKey = [...this.payerKey, ...base58.decode(this.payer)];
    this.surfnet = Surfnet.startWithConfig({ offline: true, airdropSol: PAYER_LAMPORTS, payerSecretKey, ...slots });
    this.rpc = this.surfnet.rpcUrl;
    this.mints = new Map();
    setInterval(() => this.surfnet.drainEvents(), DRAIN_MS);
  }

  async call(method, params = []) {
    const answer = await fetch(this.rpc, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
      signal: AbortSignal.timeout(CONFIRM_MS),
    });
    const { result, error } = await answer.json();
    if (error) throw new Error(`${method}: ${error.message}`);
    return result;
  }

  // Signs, sends, and waits until the transaction is confirmed.
  async send(instructions, keys) {
    const { value } = await this.call('getLatestBlockhash', [{ commitment: 'confirmed' }]);
    const msg = { feePayer: this.payer, blockhash: value.blockhash, instructions };
    let tx = Buffer.from(sol.Transaction.encode({ msg, signatures: {} })).toString('base64');
    for (const key of [this.payerKey, ...keys]) [, tx] = sol.signTx(key, tx);
    const signature = await this.call('sendTransaction', [tx, { encoding: 'base64', preflightCommitment: 'confirmed' }]);
    for (const end = Date.now() + CONFIRM_MS; Date.now() < end; await sleep(POLL_MS)) {
      const [status] = (await this.call('getSignatureStatuses', [[signature]])).value;
      if (status?.err) throw new Error(`the transaction failed: ${JSON.stringify(status.err)}`);
      if (status && status.confirmationStatus !== 'processed') return signature;
    }
    throw new Error('the transaction was not confirmed in time');
  }

  async allocate(key, space, program) {
    const lamports = BigInt(await this.call('getMinimumBalanceForRentExemption', [space]));
    const newAccount = sol.getAddress(key);
    return sol.sys.createAccount({ source: this.payer, newAccount, lamports, space: BigInt(space), owner: program });
  }

  async mint({ program = 'spl-token', decimals = DECIMALS, key: given }) {
    const key = Uint8Array.from(given);
    if (!PROGRAMS[program]) throw new Error(`program is one of ${Object.keys(PROGRAMS).join(', ')}`);
    const mint = sol.getAddress(key);
    const token = { mint, decimals, program: PROGRAMS[program] };
    const authorities = { mintAuthority: this.payer, freezeAuthority: this.payer };
    const create = await this.allocate(key, MINT_BYTES, token.program);
    await this.send([create, under(token, sol.token.initializeMint({ mint, decimals, ...authorities }))], [key]);
    this.mints.set(mint, token);
    return { mint, decimals, program: token.program };
  }

  token({ mint }) {
    const token = mint === undefined ? this.mints.values().next().value : this.mints.get(mint);
    if (!token) throw new Error(`${mint} is no mint of this chain`);
    return token;
  }

  // Creates the wallet's associated account if it is not there.
  async account(token, wallet) {
    const account = associated(token, wallet);
    const { value } = await this.call('getAccountInfo', [account, { encoding: 'base64', commitment: 'confirmed' }]);
    const create = sol.associatedToken.create({ source: this.payer, account, wallet, mint: token.mint });
    return { account, instructions: value ? [] : [under(token, create)], keys: [] };
  }

  async freshAccount(token, wallet, given) {
    const key = Uint8Array.from(given);
    const account = sol.getAddress(key);
    const create = await this.allocate(key, ACCOUNT_BYTES, token.program);
    const initialize = under(token, sol.token.initializeAccount({ account, mint: token.mint, owner: wallet }));
    return { account, instructions: [create, initialize], keys: [key] };
  }

  async fund(command) {
    const token = this.token(command);
    const wallet = address(command.wallet);
    const amount = raw(command.amount, token.decimals);
    const { account, instructions, keys } = await this[command.fresh ? 'freshAccount' : 'account'](token, wallet, command.key);
    const mintTo = under(token, sol.token.mintTo({ mint: token.mint, dest: account, authority: this.payer, amount }));
    await this.send([...instructions, mintTo], keys);
    return { account };
  }

  async transfer(command) {
    const token = this.token(command);
    const amount = raw(command.amount, token.decimals);
    const key = Uint8Array.from(command.secret).slice(0, 32);
    const owner = sol.getAddress(key);
    const { account: destination, instructions } = await this.account(token, address(command.to));
    const move = sol.token.transfer({ source: associated(token, owner), destination, owner, amount });
    await this.send([...instructions, under(token, move)], [key]);
    return {};
  }

  async freeze(command, instruction = sol.token.freezeAccount) {
    const token = this.token(command);
    const account = associated(token, address(command.wallet));
    await this.send([under(token, instruction({ account, mint: token.mint, authority: this.payer }))], []);
    return {};
  }

  thaw(command) {
    return this.freeze(command, sol.token.thawAccount);
  }

  async set(command) {
    const token = this.token(command);
    const amount = raw(command.amount, token.decimals);
    if (amount > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error('set: the amount is too large');
    this.surfnet.setTokenBalance(address(command.wallet), token.mint, Number(amount), token.program);
    return {};
  }
}

// What set the chain up: one command a line, in their order.
class Journal {
  constructor(path) {
    this.file = openSync(path, 'a+', 0o600);
    const text = readFileSync(path, 'utf8');
    // A kill may have cut the last line: nobody was told that it was done.
    const whole = text.slice(0, text.lastIndexOf('\n') + 1);
    ftruncateSync(this.file, Buffer.byteLength(whole));
    this.commands = whole.split('\n').slice(0, -1).map((line) => JSON.parse(line));
    this.length = this.commands.length;
  }

  check() {
    if (this.length >= JOURNAL_MOST) throw new Error(`the journal is full (${JOURNAL_MOST} commands): start with a new one`);
  }

  note(command) {
    writeSync(this.file, `${JSON.stringify(command)}\n`);
    fsyncSync(this.file);
    this.length += 1;
  }

  close() {
    closeSync(this.file);
  }
}

// Keys that a command makes are part of it, so that it can be done again.
const pinned = (command) => ({ key: [...newKey()], ...command });

const COMMANDS = ['mint', 'fund', 'transfer', 'freeze', 'thaw', 'set'];

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// The same instruction for the program that owns the token.
function under(token, { program, keys, data }) {
  const own = (name) => (name === sol.TOKEN_PROGRAM ? token.program : name);
  return { program: own(program), keys: keys.map((key) => ({ ...key, address: own(key.address) })), data };
}

function associated(token, wallet) {
  const seeds = [wallet, token.program, token.mint].map((name) => base58.decode(name));
  return sol.programAddress(sol.ASSOCIATED_TOKEN_PROGRAM, ...seeds);
}

function address(text) {
  if (typeof text !== 'string') throw new Error('a wallet is a base58 text');
  sol.validateAddress(text);
  return text;
}

// Whole tokens, as an integer or a decimal text, in the mint's smallest unit.
function raw(amount, decimals) {
  const parts = /^(\d+)(?:\.(\d+))?$/.exec(String(amount));
  if (!parts || (parts[2] ?? '').length > decimals) throw new Error(`amount: ${amount} is not a number of tokens`);
  const value = BigInt(parts[1] + (parts[2] ?? '').padEnd(decimals, '0'));
  if (value > MAX_U64) throw new Error(`amount: ${amount} is more than a token account holds`);
  return value;
}

// Passes connections on a given port to the one surfpool chose by itself.
function listen(port, url) {
  const to = { host: '127.0.0.1', port: Number(new URL(url).port) };
  const server = createServer((near) => {
    const far = connect(to);
    for (const [one, other] of [[near, far], [far, near]]) one.on('error', () => other.destroy()).pipe(other);
  });
  server.maxConnections = CONNECTIONS_MOST;
  return new Promise((done, failed) => {
    server.on('error', failed).listen(port, '127.0.0.1', () => done(`http://127.0.0.1:${port}`));
  });
}

async function answer(chain, journal, line) {
  try {
    if (line.length > LONGEST_LINE) throw new Error('the command is too long');
    const command = pinned(JSON.parse(line));
    if (!COMMANDS.includes(command.do)) throw new Error(`do is one of ${COMMANDS.join(', ')}`);
    journal?.check();
    const done = await chain[command.do](command);
    journal?.note(command);
    return { ok: true, ...done };
  } catch (error) {
    return { ok: false, error: error.message };
  }
}

const say = (it) => process.stdout.write(`${JSON.stringify(it)}\n`);

function number(values, name, most) {
  const value = Number(values[name]);
  if (!/^\d+$/.test(values[name]) || value > most) throw new Error(`--${name} is a number from 0 to ${most}`);
  return value;
}

async function main() {
  const text = (value) => ({ type: 'string', default: value });
  const slotMs = text(process.env.PALATINE_SOLANA_SLOT_MS ?? '0');
  const { values } = parseArgs({ options: { port: text('0'), 'slot-ms': slotMs, journal: { type: 'string' } } });
  const port = number(values, 'port', 65_535);
  const chain = new Chain(number(values, 'slot-ms', 60_000));
  const journal = values.journal === undefined ? undefined : new Journal(values.journal);
  const first = await chain.mint({ key: devKey('mint') });
  for (const command of journal?.commands ?? []) await chain[command.do](command);
  // Nobody is let in before all is as it was.
  const rpc = port === 0 ? chain.rpc : await listen(port, chain.rpc);
  say({ rpc, ...first });
  for await (const line of createInterface({ input: process.stdin })) say(await answer(chain, journal, line));
  journal?.close();
}

main().then(
  () => process.exit(0),
  (error) => {
    process.stderr.write(`solana: ${error.message}\n`);
    process.exit(1);
  },
);
