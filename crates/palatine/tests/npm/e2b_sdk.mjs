// What E2B's own tests of its SDK for JavaScript try of files, commands and terminals, through that SDK, against one
// agent.
//
// Arguments: the gateway's URL, the agent's id, its token, its host's name; `proto` as a fifth has the messages written
// in protobuf's binary form instead of the SDK's JSON, `killed` has only that test run in which the agent is stopped.
// Each test bears the name of E2B's. What came of each is a line of JSON. The agent has `FOO=bar` in its environment and
// is worked in by `user`.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { setTimeout as pause } from 'node:timers/promises';

const [GATEWAY, ID, TOKEN, HOST, MODE] = process.argv.slice(2);
const require = createRequire(`${process.cwd()}/`);
// Transports whose messages are binary.
let binary = 0;
if (MODE === 'proto') {
  const name = require.resolve('@connectrpc/connect-web');
  const web = require(name);
  const createConnectTransport = (options) => {
    binary += 1;
    return web.createConnectTransport({ ...options, useBinaryFormat: true });
  };
  require.cache[name].exports = { ...web, createConnectTransport };
}
const {
  CommandExitError,
  FileNotFoundError,
  FilesystemEventType,
  FileType,
  InvalidArgumentError,
  NotFoundError,
  Sandbox,
  SandboxError,
  TimeoutError,
} = require('e2b');

const HOME = '/home/user';
// The daemon's version whose calls these are: by it the SDK knows what it may ask for.
const ENVD = '0.6.4';
// For what a stream says by itself, in ms.
const PATIENCE = 60_000;
// A test that hangs is a test that failed; in ms.
const LIMIT = 180_000;
const GONE = 999999;
const TESTS = [];

// Names E2B's test.
const e2b = (name, test) => TESTS.push([name, test]);
// Names one that ends otherwise here, and tries how.
const differs = e2b;

const fresh = (name = 'test') => `${name}_${randomUUID().replaceAll('-', '').slice(0, 12)}`;

const bytes = (text) => new TextEncoder().encode(text);

async function until(what, found) {
  const deadline = performance.now() + PATIENCE;
  for (;;) {
    const value = found();
    if (value) return value;
    assert(performance.now() < deadline, `never: ${what}`);
    await pause(20);
  }
}

async function stdout(sandbox, command, options) {
  const done = await sandbox.commands.run(command, options);
  assert.equal(done.exitCode, 0);
  return done.stdout;
}

async function joined(stream) {
  assert(stream instanceof ReadableStream);
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

// Commands.

e2b('commands/connect.test.ts::connect to process', async (sandbox) => {
  const started = await sandbox.commands.run('sleep 10', { background: true });
  const again = await sandbox.commands.connect(started.pid);
  assert.equal(again.pid, started.pid);
  assert(await started.kill());
});

e2b('commands/connect.test.ts::connect to non-existing process', async (sandbox) => {
  await assert.rejects(sandbox.commands.connect(GONE), NotFoundError);
});

e2b('commands/envVars.test.ts::sandbox global env vars', async (sandbox) => {
  assert.equal(await stdout(sandbox, 'echo $FOO'), 'bar\n');
});

e2b('commands/envVars.test.ts::bash command scoped env vars', async (sandbox) => {
  assert.equal(await stdout(sandbox, 'echo $WORD', { envs: { WORD: 'given' } }), 'given\n');
  assert.equal(await stdout(sandbox, 'sudo echo "$WORD"'), '\n');
});

e2b('commands/envVars.test.ts::python command scoped env vars', async (sandbox) => {
  const program = 'python3 -c "import os; print(os.environ[\'WORD\'])"';
  assert.equal(await stdout(sandbox, program, { envs: { WORD: 'given' } }), 'given\n');
});

e2b('commands/kill.test.ts::kill process', async (sandbox) => {
  const { pid } = await sandbox.commands.run('sleep 10', { background: true });
  assert(await sandbox.commands.kill(pid));
  await assert.rejects(sandbox.commands.run(`kill -0 ${pid}`), CommandExitError);
});

e2b('commands/kill.test.ts::kill non-existing process', async (sandbox) => {
  assert.equal(await sandbox.commands.kill(GONE), false);
});

e2b('commands/list.test.ts::list processes', async (sandbox) => {
  const run = () => sandbox.commands.run('sleep 10', { background: true });
  const started = [await run(), await run()];
  const listed = (await sandbox.commands.list()).map((one) => one.pid);
  assert(started.every((one) => listed.includes(one.pid)), `${listed}`);
  for (const one of started) await one.kill();
});

e2b('commands/run.test.ts::run', async (sandbox) => {
  const { exitCode, stdout, stderr } = await sandbox.commands.run('echo "Hello, World!"');
  assert.deepEqual([exitCode, stdout, stderr], [0, 'Hello, World!\n', '']);
});

e2b('commands/run.test.ts::run with special characters', async (sandbox) => {
  assert.equal(await stdout(sandbox, 'echo "!@#$%^&*()_+"'), '!@#$%^&*()_+\n');
});

e2b('commands/run.test.ts::run with multiline string', async (sandbox) => {
  assert.equal(await stdout(sandbox, 'echo "Hello,\nWorld!"'), 'Hello,\nWorld!\n');
});

e2b('commands/run.test.ts::run with timeout', async (sandbox) => {
  assert.equal(await stdout(sandbox, 'echo here', { timeoutMs: 30_000 }), 'here\n');
});

e2b('commands/run.test.ts::run with too short timeout', async (sandbox) => {
  await assert.rejects(sandbox.commands.run('sleep 60', { timeoutMs: 2000 }), TimeoutError);
});

e2b('commands/run.test.ts::run with too short timeout iterating', async (sandbox) => {
  const started = await sandbox.commands.run('sleep 60', { timeoutMs: 2000, background: true });
  await assert.rejects(started.wait(), TimeoutError);
});

// Has `cat` say what is sent to it.
async function heard(sandbox, text, send) {
  const started = await sandbox.commands.run('cat', { background: true, stdin: true });
  await send(started);
  await until('cat says it', () => started.stdout === text);
  assert(await started.kill());
}

e2b('commands/sendStdin.test.ts::send stdin to process', async (sandbox) => {
  const text = 'Hello, World!';
  await heard(sandbox, text, ({ pid }) => sandbox.commands.sendStdin(pid, text));
});

e2b('commands/sendStdin.test.ts::send Uint8Array stdin to process', async (sandbox) => {
  const text = 'Hello, World!';
  await heard(sandbox, text, ({ pid }) => sandbox.commands.sendStdin(pid, bytes(text)));
});

e2b('commands/sendStdin.test.ts::send stdin via command handle', async (sandbox) => {
  const text = 'Hello, World!';
  await heard(sandbox, text, (started) => started.sendStdin(text));
});

e2b('commands/sendStdin.test.ts::close stdin via command handle', async (sandbox) => {
  const started = await sandbox.commands.run('cat', { background: true, stdin: true });
  await started.sendStdin('Hello, World!');
  await started.closeStdin();
  const done = await started.wait();
  assert.deepEqual([done.exitCode, done.stdout], [0, 'Hello, World!']);
});

e2b('commands/sendStdin.test.ts::send empty stdin to process', async (sandbox) => {
  await heard(sandbox, '', ({ pid }) => sandbox.commands.sendStdin(pid, ''));
});

e2b('commands/sendStdin.test.ts::send special characters to stdin', async (sandbox) => {
  const text = '!@#$%^&*()_+';
  await heard(sandbox, text, ({ pid }) => sandbox.commands.sendStdin(pid, text));
});

e2b('commands/sendStdin.test.ts::send multiline string to stdin', async (sandbox) => {
  const text = 'Hello,\nWorld!';
  await heard(sandbox, text, ({ pid }) => sandbox.commands.sendStdin(pid, text));
});

// Files.

function isWritten(info, path) {
  assert.deepEqual([info.path, info.name, info.type], [path, path.split('/').at(-1), FileType.FILE]);
}

// Writes it, and reads it again.
async function writes(sandbox, data, text, { name = fresh(), ...how } = {}) {
  isWritten(await sandbox.files.write(name, data, how), `${HOME}/${name}`);
  assert(await sandbox.files.exists(name));
  assert.equal(await sandbox.files.read(name), text);
}

// Writes them, and reads them again: as many as these, each by its path.
async function writesAll(sandbox, files, texts, how) {
  const written = await sandbox.files.writeFiles(files, how);
  assert.equal(written.length, files.length);
  for (const [at, { path }] of files.entries()) {
    isWritten(written[at], path.startsWith('/') ? path : `${HOME}/${path}`);
    assert(await sandbox.files.exists(path));
    assert.equal(await sandbox.files.read(path), texts[at]);
  }
  return written;
}

e2b('files/contentEncoding.test.ts::write and read file with gzip content encoding', async (sandbox) => {
  const [name, text] = [fresh(), 'packed on both ways'];
  isWritten(await sandbox.files.write(name, text, { gzip: true }), `${HOME}/${name}`);
  assert.equal(await sandbox.files.read(name, { gzip: true }), text);
});

e2b('files/contentEncoding.test.ts::write with gzip and read without encoding', async (sandbox) => {
  await writes(sandbox, 'packed on the way there', 'packed on the way there', { gzip: true });
});

e2b('files/contentEncoding.test.ts::writeFiles with gzip content encoding', async (sandbox) => {
  const texts = [1, 2, 3].map((at) => `content ${at}`);
  await writesAll(sandbox, texts.map((data) => ({ path: fresh(), data })), texts, { gzip: true });
});

e2b('files/contentEncoding.test.ts::read file as bytes with gzip content encoding', async (sandbox) => {
  const [name, text] = [fresh(), 'packed on the way back'];
  await sandbox.files.write(name, text);
  const read = await sandbox.files.read(name, { format: 'bytes', gzip: true });
  assert.deepEqual(read, bytes(text));
});

e2b('files/exists.test.ts::file exists', async (sandbox) => {
  const name = fresh();
  await sandbox.files.write(name, 'test');
  assert.equal(await sandbox.files.exists(name), true);
});

e2b('files/exists.test.ts::file does not exist', async (sandbox) => {
  assert.equal(await sandbox.files.exists(fresh()), false);
});

function isOfTheUser(entry, path, mode, letters) {
  assert.deepEqual([entry.path, entry.name], [path, path.split('/').at(-1)]);
  assert.deepEqual([entry.mode, entry.permissions, entry.owner, entry.group], [mode, letters, 'user', 'user']);
  const age = Date.now() - entry.modifiedTime;
  assert(entry.modifiedTime instanceof Date && Math.abs(age) < 600_000, `${age} ms old`);
  assert.equal(entry.symlinkTarget, undefined);
}

function isFile(entry, path, size) {
  isOfTheUser(entry, path, 0o644, '-rw-r--r--');
  assert.deepEqual([entry.type, entry.size], [FileType.FILE, size]);
}

function isFolder(entry, path) {
  isOfTheUser(entry, path, 0o755, 'drwxr-xr-x');
  assert.equal(entry.type, FileType.DIR);
}

const here = async (sandbox) => (await stdout(sandbox, 'pwd')).trim();

e2b('files/info.test.ts::get info of a file', async (sandbox) => {
  const name = fresh();
  await sandbox.files.write(name, 'test');
  isFile(await sandbox.files.getInfo(name), `${await here(sandbox)}/${name}`, 4);
});

e2b('files/info.test.ts::get info of a file that does not exist', async (sandbox) => {
  await assert.rejects(sandbox.files.getInfo(fresh()), FileNotFoundError);
});

e2b('files/info.test.ts::get info of a directory', async (sandbox) => {
  const name = fresh('dir');
  await sandbox.files.makeDir(name);
  const info = await sandbox.files.getInfo(name);
  isFolder(info, `${await here(sandbox)}/${name}`);
  assert(info.size > 0);
});

e2b('files/info.test.ts::get info of a directory that does not exist', async (sandbox) => {
  await assert.rejects(sandbox.files.getInfo(`${fresh('dir')}/within`), FileNotFoundError);
});

e2b('files/info.test.ts::get info of a symlink', async (sandbox) => {
  const [name, link] = [fresh(), fresh('link')];
  await sandbox.files.write(name, 'test');
  await stdout(sandbox, `ln -s ${name} ${link}`);
  const info = await sandbox.files.getInfo(link);
  assert.deepEqual([info.name, info.symlinkTarget], [link, `${await here(sandbox)}/${name}`]);
});

e2b('files/list.test.ts::list directory', async (sandbox) => {
  const top = fresh('dir');
  const within = (folder) => [folder, `${folder}/${folder}_1`, `${folder}/${folder}_2`];
  const folders = ['subdir1', 'subdir2'].flatMap(within);
  for (const folder of folders) await sandbox.files.makeDir(`${top}/${folder}`);
  await sandbox.files.write(`${top}/file1.txt`, 'Hello, world!');
  const flat = ['file1.txt', 'subdir1', 'subdir2'];
  const deep = ['file1.txt', ...folders];
  for (const [depth, expected] of [[undefined, flat], [1, flat], [2, deep], [3, deep]]) {
    const listed = await sandbox.files.list(top, depth && { depth });
    assert.deepEqual(listed.map((entry) => entry.path), expected.map((path) => `${HOME}/${top}/${path}`));
    assert.deepEqual(listed.map((entry) => entry.name), expected.map((path) => path.split('/').at(-1)));
    assert.deepEqual(listed.map((entry) => entry.type), expected.map((_, at) => (at ? FileType.DIR : FileType.FILE)));
  }
  await sandbox.files.remove(top);
});

e2b('files/list.test.ts::list directory with invalid depth', async (sandbox) => {
  const top = fresh('dir');
  await sandbox.files.makeDir(top);
  await assert.rejects(sandbox.files.list(top, { depth: -1 }), /depth should be at least one/);
});

// What is in a folder in which a file, a folder or both were made.
async function entries(sandbox, made) {
  const top = fresh('dir');
  await sandbox.files.makeDir(top);
  if (made.includes('subdir')) await sandbox.files.makeDir(`${top}/subdir`);
  if (made.includes('test.txt')) await sandbox.files.write(`${top}/test.txt`, 'Hello, World!');
  const listed = new Map((await sandbox.files.list(top, { depth: 1 })).map((entry) => [entry.name, entry]));
  assert.deepEqual([...listed.keys()].sort(), made);
  if (made.includes('subdir')) isFolder(listed.get('subdir'), `${HOME}/${top}/subdir`);
  if (made.includes('test.txt')) isFile(listed.get('test.txt'), `${HOME}/${top}/test.txt`, 13);
  await sandbox.files.remove(top);
}

e2b('files/list.test.ts::file entry details', (sandbox) => entries(sandbox, ['test.txt']));

e2b('files/list.test.ts::directory entry details', (sandbox) => entries(sandbox, ['subdir']));

e2b('files/list.test.ts::mixed entries (files and directories)', (sandbox) => entries(sandbox, ['subdir', 'test.txt']));

e2b('files/makeDir.test.ts::make directory', async (sandbox) => {
  const name = fresh('dir');
  assert.equal(await sandbox.files.makeDir(name), true);
  assert(await sandbox.files.exists(name));
});

e2b('files/makeDir.test.ts::make existing directory', async (sandbox) => {
  const name = fresh('dir');
  await sandbox.files.makeDir(name);
  assert(await sandbox.files.exists(name));
  assert.equal(await sandbox.files.makeDir(name), false);
});

e2b('files/makeDir.test.ts::make nested directory', async (sandbox) => {
  const name = `${fresh('dir')}/nested`;
  await sandbox.files.makeDir(name);
  assert(await sandbox.files.exists(name));
});

const METADATA = { author: 'mish', purpose: 'upload' };

async function keepsMetadata(sandbox, how) {
  const name = fresh();
  const info = await sandbox.files.write(name, 'with metadata', { metadata: METADATA, ...how });
  assert.deepEqual(info.metadata, METADATA);
  assert.deepEqual((await sandbox.files.getInfo(name)).metadata, METADATA);
}

e2b('files/metadata.test.ts::write file with metadata', (sandbox) => keepsMetadata(sandbox, {}));

e2b('files/metadata.test.ts::write file with metadata using octet-stream', (sandbox) =>
  keepsMetadata(sandbox, { useOctetStream: true }));

e2b('files/metadata.test.ts::write file without metadata', async (sandbox) => {
  const name = fresh();
  assert.equal((await sandbox.files.write(name, 'no metadata')).metadata, undefined);
  assert.equal((await sandbox.files.getInfo(name)).metadata, undefined);
});

e2b('files/metadata.test.ts::writeFiles applies metadata to every file', async (sandbox) => {
  const files = [1, 2].map((at) => ({ path: fresh(), data: `content ${at}` }));
  const written = await sandbox.files.writeFiles(files, { metadata: METADATA });
  assert.equal(written.length, 2);
  for (const info of written) {
    assert.deepEqual(info.metadata, METADATA);
    assert.deepEqual((await sandbox.files.getInfo(info.path)).metadata, METADATA);
  }
});

e2b('files/metadata.test.ts::metadata is surfaced when listing', async (sandbox) => {
  const top = fresh('dir');
  await sandbox.files.makeDir(top);
  await sandbox.files.write(`${top}/listed`, 'content', { metadata: METADATA });
  const [entry] = await sandbox.files.list(top);
  assert.deepEqual([entry.name, entry.metadata], ['listed', METADATA]);
});

e2b('files/metadata.test.ts::metadata is surfaced after rename', async (sandbox) => {
  const name = fresh();
  await sandbox.files.write(name, 'content', { metadata: METADATA });
  assert.deepEqual((await sandbox.files.rename(name, `${name}_new`)).metadata, METADATA);
});

e2b('files/metadata.test.ts::overwriting a file clears stale metadata', async (sandbox) => {
  const name = fresh();
  await sandbox.files.write(name, 'first', { metadata: METADATA });
  assert.equal((await sandbox.files.write(name, 'second')).metadata, undefined);
  assert.equal((await sandbox.files.getInfo(name)).metadata, undefined);
});

e2b('files/metadata.test.ts::metadata set via xattrs is surfaced in getInfo', async (sandbox) => {
  const name = fresh();
  await sandbox.files.write(name, 'content');
  const path = (await stdout(sandbox, `realpath ${name}`)).trim();
  await stdout(sandbox, `python3 -c "import os; os.setxattr('${path}', 'user.e2b.author', b'mish')"`);
  assert.deepEqual((await sandbox.files.getInfo(name)).metadata, { author: 'mish' });
});

e2b('files/metadata.test.ts::rejects invalid metadata', async (sandbox) => {
  const name = fresh();
  for (const [key, value] of [['bad key', 'a'], ['', 'a'], ['key\n', 'a'], ['good', 'b\na'], ['good', 'a\n']]) {
    await assert.rejects(sandbox.files.write(name, 'x', { metadata: { [key]: value } }), InvalidArgumentError);
  }
  assert.equal(await sandbox.files.exists(name), false);
});

e2b('files/read.test.ts::read file', (sandbox) => writes(sandbox, 'Hello, world!', 'Hello, world!'));

e2b('files/read.test.ts::read non-existing file', async (sandbox) => {
  await assert.rejects(sandbox.files.read(fresh()), FileNotFoundError);
});

e2b('files/read.test.ts::read non-existing file catches with deprecated NotFoundError', async (sandbox) => {
  await assert.rejects(sandbox.files.read(fresh()), NotFoundError);
});

e2b('files/read.test.ts::read file as stream', async (sandbox) => {
  const [name, text] = [fresh(), 'Streamed content. '.repeat(10_000)];
  await sandbox.files.write(name, text);
  assert.equal(await joined(await sandbox.files.read(name, { format: 'stream' })), text);
});

e2b('files/read.test.ts::read non-existing file as stream', async (sandbox) => {
  await assert.rejects(sandbox.files.read(fresh(), { format: 'stream' }), FileNotFoundError);
});

e2b('files/read.test.ts::read empty file in all formats', async (sandbox) => {
  const name = fresh();
  await stdout(sandbox, `touch ${name}`);
  assert.equal(await sandbox.files.read(name, { format: 'text' }), '');
  assert.deepEqual(await sandbox.files.read(name, { format: 'bytes' }), new Uint8Array());
  const blob = await sandbox.files.read(name, { format: 'blob' });
  assert(blob instanceof Blob && blob.size === 0);
  assert.equal(await joined(await sandbox.files.read(name, { format: 'stream' })), '');
});

e2b('files/remove.test.ts::remove file', async (sandbox) => {
  const name = fresh();
  await sandbox.files.write(name, 'This file will be removed.');
  await sandbox.files.remove(name);
  assert.equal(await sandbox.files.exists(name), false);
});

e2b('files/remove.test.ts::remove non-existing file', (sandbox) => sandbox.files.remove(fresh()));

e2b('files/rename.test.ts::rename file', async (sandbox) => {
  const [name, text] = [fresh(), 'This file will be renamed.'];
  await sandbox.files.write(name, text);
  isWritten(await sandbox.files.rename(name, `${name}_new`), `${HOME}/${name}_new`);
  assert.equal(await sandbox.files.exists(name), false);
  assert.equal(await sandbox.files.exists(`${name}_new`), true);
  assert.equal(await sandbox.files.read(`${name}_new`), text);
});

e2b('files/rename.test.ts::rename non-existing file', async (sandbox) => {
  await assert.rejects(sandbox.files.rename(fresh(), fresh()), FileNotFoundError);
});

// As who has nothing but a URL reaches the agent: this user's file, or the one that is meant without a user.
async function download(sandbox, user, useSignatureExpiration) {
  const [name, text] = [fresh(), 'read by whoever has the URL'];
  await sandbox.files.write(name, text, { user });
  const answer = await fetch(await sandbox.named.downloadUrl(name, { user, useSignatureExpiration }));
  return { status: answer.status, said: await answer.text(), text };
}

async function upload(sandbox, user, useSignatureExpiration) {
  const name = fresh();
  const body = new FormData();
  body.append('file', 'file content');
  const url = await sandbox.named.uploadUrl(name, { user, useSignatureExpiration });
  const answer = await fetch(url, { method: 'POST', body });
  return { status: answer.status, said: await answer.json(), name };
}

const EXPIRED = { code: 401, message: 'signature is already expired' };

e2b('files/signing.test.ts::test access file with expired signing', async (sandbox) => {
  const { status, said } = await download(sandbox, undefined, -10_000);
  assert.deepEqual([status, JSON.parse(said)], [401, EXPIRED]);
});

e2b('files/signing.test.ts::test access file with valid signing', async (sandbox) => {
  const { status, said, text } = await download(sandbox, undefined, 10_000);
  assert.deepEqual([status, said], [200, text]);
});

e2b('files/signing.test.ts::test access file with valid signing as root', async (sandbox) => {
  const { status, said, text } = await download(sandbox, 'root', 10_000);
  assert.deepEqual([status, said], [200, text]);
});

e2b('files/signing.test.ts::test upload file with valid signing', async (sandbox) => {
  const { status, said, name } = await upload(sandbox, undefined, 10_000);
  assert.deepEqual([status, said], [200, [{ name, path: `${HOME}/${name}`, type: 'file' }]]);
  assert.equal(await sandbox.files.read(name), 'file content');
});

e2b('files/signing.test.ts::test upload file with valid signing as root user', async (sandbox) => {
  const { status, said, name } = await upload(sandbox, 'root', 10_000);
  assert.deepEqual([status, said], [200, [{ name, path: `/root/${name}`, type: 'file' }]]);
  assert.equal(await sandbox.files.read(name, { user: 'root' }), 'file content');
});

e2b('files/signing.test.ts::test upload file with invalid signing', async (sandbox) => {
  const { status, said, name } = await upload(sandbox, undefined, -100_000);
  assert.deepEqual([status, said], [401, EXPIRED]);
  assert.equal(await sandbox.files.exists(name), false);
});

e2b('files/signing.test.ts::test command run with secured sbx', async (sandbox) => {
  assert.equal(await stdout(sandbox, 'echo Hello World!'), 'Hello World!\n');
});

// What happens in a folder while `change` is made: the first event of each of these kinds and names.
async function seen(sandbox, folder, options, change, ...wanted) {
  const events = [];
  const handle = await sandbox.files.watchDir(folder, (event) => void events.push(event), options);
  await change();
  const found = [];
  for (const [type, name] of wanted) {
    const is = (event) => event.type === type && event.name === name;
    found.push(await until(`${type} of ${name}`, () => events.find(is)));
  }
  await handle.stop();
  return found;
}

async function seesAWrite(sandbox, options, within = '') {
  const top = fresh('dir');
  const path = `${top}/${within}watched`;
  await sandbox.files.write(path, 'This file will be watched.');
  const change = () => sandbox.files.write(path, 'This file has been modified.');
  const [event] = await seen(sandbox, top, options, change, [FilesystemEventType.WRITE, `${within}watched`]);
  return { event, path: `${HOME}/${path}` };
}

e2b('files/watch.test.ts::watch directory changes', (sandbox) => seesAWrite(sandbox));

e2b('files/watch.test.ts::watch recursive directory changes', (sandbox) =>
  seesAWrite(sandbox, { recursive: true }, 'nested/'));

e2b('files/watch.test.ts::watch recursive directory after nested folder addition', async (sandbox) => {
  const top = fresh('dir');
  await sandbox.files.makeDir(top);
  const change = async () => {
    await sandbox.files.makeDir(`${top}/nested`);
    await sandbox.files.write(`${top}/nested/watched`, 'This file will be watched.');
  };
  const { CREATE, WRITE } = FilesystemEventType;
  await seen(sandbox, top, { recursive: true }, change, [CREATE, 'nested'], [WRITE, 'nested/watched']);
});

e2b('files/watch.test.ts::watch directory changes with entry info', async (sandbox) => {
  const { event, path } = await seesAWrite(sandbox, { includeEntry: true });
  assert.deepEqual([event.entry.name, event.entry.path, event.entry.type], ['watched', path, FileType.FILE]);
});

e2b('files/watch.test.ts::watch directory changes with network mounts allowed', (sandbox) =>
  seesAWrite(sandbox, { allowNetworkMounts: true }));

e2b('files/watch.test.ts::watch non-existing directory', async (sandbox) => {
  await assert.rejects(sandbox.files.watchDir(fresh('dir'), () => {}), FileNotFoundError);
});

e2b('files/watch.test.ts::watch file', async (sandbox) => {
  const name = fresh();
  await sandbox.files.write(name, 'This file will be watched.');
  await assert.rejects(sandbox.files.watchDir(name, () => {}), SandboxError);
});

e2b('files/write.test.ts::write file', async (sandbox) => {
  await assert.rejects(sandbox.files.write(undefined, 'text'), /Path or files are required/);
  await writes(sandbox, 'This is a test file.', 'This is a test file.');
});

// E2B's writes some of them into the root folder as `user`, whose rights do not go so far here.
differs('files/write.test.ts::write multiple files', async (sandbox) => {
  const one = [{ path: fresh(), data: 'This is a test file.' }];
  assert.deepEqual(await sandbox.files.write([]), []);
  await assert.rejects(sandbox.files.write(undefined, one), /Path or files are required/);
  await assert.rejects(sandbox.files.write('/path/to/file', one), /Cannot specify both path and array of files/);
  await writesAll(sandbox, one, [one[0].data]);
  const texts = [...Array(10).keys()].map((at) => `This is a test file ${at}.`);
  const path = (at) => `${at % 2 ? HOME : `/${fresh()}`}/${fresh()}`;
  const files = texts.map((data, at) => ({ path: path(at), data }));
  await assert.rejects(sandbox.files.write(files), /403: .*Permission denied/);
  await writesAll(sandbox, files, texts, { user: 'root' });
});

e2b('files/write.test.ts::overwrite file', async (sandbox) => {
  const name = fresh();
  await sandbox.files.write(name, 'Initial content.');
  await writes(sandbox, 'New content.', 'New content.', { name });
});

e2b('files/write.test.ts::write to non-existing directory', async (sandbox) => {
  const [name, text] = [`${fresh('dir')}/file`, 'This works too.'];
  await writes(sandbox, text, text, { name });
});

e2b('files/write.test.ts::writeFiles with empty array', async (sandbox) => {
  assert.deepEqual(await sandbox.files.writeFiles([]), []);
});

e2b('files/write.test.ts::writeFiles with multiple files', async (sandbox) => {
  const texts = [...Array(10).keys()].map((at) => `This is a test file ${at}.`);
  await writesAll(sandbox, texts.map((data) => ({ path: fresh(), data })), texts);
});

e2b('files/write.test.ts::writeFiles with different data types', async (sandbox) => {
  const texts = ['of text', 'of bytes', 'of a blob', 'of a stream'];
  const [text, buffer, blob, stream] = texts;
  const kinds = [text, bytes(buffer).buffer, new Blob([blob]), new Blob([stream]).stream()];
  await writesAll(sandbox, kinds.map((data) => ({ path: fresh(), data })), texts);
});

e2b('files/write.test.ts::writeFiles creates parent directories', async (sandbox) => {
  await writesAll(sandbox, [{ path: `${fresh('dir')}/nested/file`, data: 'within' }], ['within']);
});

e2b('files/write.test.ts::writeFiles overwrites existing files', async (sandbox) => {
  const path = fresh();
  for (const data of ['Initial content', 'New content']) await writesAll(sandbox, [{ path, data }], [data]);
});

const MANY = 'Streamed upload. '.repeat(10_000);

e2b('files/write.test.ts::write ReadableStream with octet stream upload', (sandbox) =>
  writes(sandbox, new Blob([MANY]).stream(), MANY, { useOctetStream: true }));

e2b('files/write.test.ts::write ReadableStream with octet stream upload and gzip', (sandbox) =>
  writes(sandbox, new Blob([MANY]).stream(), MANY, { useOctetStream: true, gzip: true }));

// Terminals.

// A terminal of 80 columns and 24 rows, and what it says.
class Terminal {
  #pieces = [];

  #onData = (data) => void this.#pieces.push(data);

  constructor(sandbox) {
    this.sandbox = sandbox;
  }

  async create(options) {
    this.handle = await this.sandbox.pty.create({ cols: 80, rows: 24, onData: this.#onData, ...options });
    return this;
  }

  async connect(pid) {
    this.handle = await this.sandbox.pty.connect(pid, { onData: this.#onData });
    return this;
  }

  get said() {
    return Buffer.concat(this.#pieces).toString();
  }

  async send(text) {
    await this.sandbox.pty.sendInput(this.handle.pid, bytes(text));
  }

  async ends() {
    await this.handle.wait();
    assert.equal(this.handle.exitCode, 0);
    return this.said;
  }
}

e2b('pty/kill.test.ts::kill PTY', async (sandbox) => {
  const { pid } = (await new Terminal(sandbox).create()).handle;
  assert.equal(await sandbox.pty.kill(pid), true);
  await assert.rejects(sandbox.commands.run(`kill -0 ${pid}`), CommandExitError);
});

e2b('pty/kill.test.ts::kill non-existing PTY', async (sandbox) => {
  assert.equal(await sandbox.pty.kill(GONE), false);
});

e2b('pty/ptyConnect.test.ts::pty connect/reconnect', async (sandbox) => {
  const first = await new Terminal(sandbox).create({ envs: { WORD: 'bar' } });
  await first.send('echo $WORD\n');
  await until('the first hears it', () => first.said.includes('bar\r\n'));
  await first.handle.disconnect();
  const again = await new Terminal(sandbox).connect(first.handle.pid);
  await again.send('echo $WORD\nexit\n');
  assert.equal(again.handle.pid, first.handle.pid);
  assert((await again.ends()).includes('bar\r\n'));
});

e2b('pty/ptyCreate.test.ts::create PTY', async (sandbox) => {
  const terminal = await new Terminal(sandbox).create({ envs: { WORD: '123' }, cwd: '/' });
  await terminal.send('echo $WORD; pwd\nexit\n');
  const said = await terminal.ends();
  assert(said.includes('123\r\n/\r\n'), said);
});

e2b('pty/resize.test.ts::resize', async (sandbox) => {
  for (const columns of [80, 100]) {
    const terminal = await new Terminal(sandbox).create();
    if (columns !== 80) await sandbox.pty.resize(terminal.handle.pid, { cols: columns, rows: 24 });
    await terminal.send('tput cols\nexit\n');
    const said = await terminal.ends();
    assert(said.includes(`${columns}\r\n`), said);
  }
});

e2b('pty/sendInput.test.ts::send input', async (sandbox) => {
  const terminal = await new Terminal(sandbox).create();
  await terminal.send('exit\n');
  await terminal.ends();
});

// Whoever reads this line stops the agent: what runs in it is ended first, and its end is told.
async function killed(sandbox) {
  const started = await sandbox.commands.run('sleep 600', { background: true });
  console.log(JSON.stringify({ running: started.pid }));
  await assert.rejects(started.wait(), (error) => error instanceof CommandExitError && error.exitCode === -1);
  const deadline = performance.now() + PATIENCE;
  while (await sandbox.isRunning()) {
    assert(performance.now() < deadline, 'it runs on');
    await pause(100);
  }
}

function client(sandboxUrl) {
  return new Sandbox({
    sandboxId: ID,
    sandboxDomain: 'localhost',
    envdVersion: ENVD,
    envdAccessToken: TOKEN,
    sandboxUrl,
    requestTimeoutMs: PATIENCE,
  });
}

async function tried(name, sandbox, test) {
  const late = new AbortController();
  const limit = pause(LIMIT, undefined, { signal: late.signal }).then(() => assert.fail('it hangs'));
  let error = null;
  try {
    await Promise.race([test(sandbox), limit]);
  } catch (raised) {
    error = raised?.stack ?? String(raised);
  }
  late.abort();
  await limit.catch(() => {});
  console.log(JSON.stringify({ test: name, client: 'javascript', error }));
}

const sandbox = client(GATEWAY);
sandbox.named = client(`http://49983-${HOST}`);
if (MODE === 'killed') {
  const test = 'killing the sandbox while a command is running throws an actionable error';
  await tried(`commands/sandboxKilledDuringRun.test.ts::${test}`, sandbox, killed);
} else {
  for (const [name, test] of TESTS) await tried(name, sandbox, test);
}
assert.equal(binary > 0, MODE === 'proto');
// The SDK keeps its connections.
process.exit(0);
