"""What E2B's own tests of its Python SDK try of files, commands and terminals, through that SDK, against one agent.

Arguments: the gateway's URL, the agent's id, its token, its host's name; `proto` as a fifth has the messages written in
protobuf's binary form instead of the SDK's JSON, `killed` has only that test run in which the agent is stopped. Each test
bears the name of E2B's; both kinds of client run it, but for what only one of them has. What came of each is a line of
JSON. The agent has `FOO=bar` in its environment and is worked in by `user`.
"""

import asyncio
import inspect
import io
import json
import sys
import time
import traceback
import urllib.error
import urllib.request
import uuid

from connectrpc.codec import proto_binary_codec
from packaging.version import Version

from e2b import AsyncSandbox, ConnectionConfig, FilesystemEventType, FileType, Sandbox
from e2b.envd import client_async, client_sync
from e2b.exceptions import (
    FileNotFoundException,
    InvalidArgumentException,
    NotFoundException,
    SandboxException,
    TimeoutException,
)
from e2b.sandbox.commands.command_handle import CommandExitException, PtySize
from e2b.sandbox.filesystem.filesystem import WriteEntry, WriteInfo

HOME = "/home/user"
# The daemon's version whose calls these are: by it the SDK knows what it may ask for.
ENVD = Version("0.6.4")
# For what a stream says by itself.
PATIENCE = 60
# A test that hangs is a test that failed.
LIMIT = 180
GONE = 999999
SYNC, ASYNC, BOTH = ("sync",), ("async",), ("sync", "async")
TESTS = []


def e2b(name, kinds=BOTH):
    """Names E2B's test, and which clients run it."""

    def added(test):
        TESTS.append((name, kinds, test))
        return test

    return added


async def do(result):
    """What a call gives, of either client."""
    return await result if inspect.isawaitable(result) else result


async def fails(error, call):
    """The error of a call that must fail so."""
    try:
        await do(call())
    except error as raised:
        return raised
    raise AssertionError(f"it raised no {error.__name__}")


async def joined(stream):
    if hasattr(stream, "__aiter__"):
        return b"".join([piece async for piece in stream])
    return b"".join(stream)


async def until(what, found):
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.02)
    return value


def fresh(name="test"):
    return f"{name}_{uuid.uuid4().hex[:12]}"


def is_async(sandbox):
    return isinstance(sandbox, AsyncSandbox)


async def output_of(sandbox, command, **options):
    return (await do(sandbox.commands.run(command, **options))).stdout


# Commands.


@e2b("commands/test_cmd_connect.py::test_connect_to_process")
async def _(sandbox):
    started = await do(sandbox.commands.run("sleep 10", background=True))
    assert (await do(sandbox.commands.connect(started.pid))).pid == started.pid
    await do(started.kill())


@e2b("commands/test_cmd_connect.py::test_connect_to_non_existing_process")
async def _(sandbox):
    await fails(NotFoundException, lambda: sandbox.commands.connect(GONE))


@e2b("commands/test_cmd_kill.py::test_kill_process")
async def _(sandbox):
    started = await do(sandbox.commands.run("sleep 10", background=True))
    assert await do(sandbox.commands.kill(started.pid))
    await fails(CommandExitException, lambda: sandbox.commands.run(f"kill -0 {started.pid}"))


@e2b("commands/test_cmd_kill.py::test_kill_non_existing_process")
async def _(sandbox):
    assert not await do(sandbox.commands.kill(GONE))


@e2b("commands/test_cmd_list.py::test_kill_process")
async def _(sandbox):
    started = [await do(sandbox.commands.run("sleep 10", background=True)) for _ in range(2)]
    listed = [process.pid for process in await do(sandbox.commands.list())]
    assert all(one.pid in listed for one in started), (started, listed)
    for one in started:
        await do(one.kill())


@e2b("commands/test_env_vars.py::test_command_envs")
async def _(sandbox):
    assert await output_of(sandbox, "echo $WORD", envs={"WORD": "given"}) == "given\n"


@e2b("commands/test_env_vars.py::test_sandbox_envs")
async def _(sandbox):
    assert await output_of(sandbox, "echo $FOO") == "bar\n"


@e2b("commands/test_env_vars.py::test_bash_command_scoped_env_vars")
async def _(sandbox):
    assert await output_of(sandbox, "echo $WORD", envs={"WORD": "given"}) == "given\n"
    assert await output_of(sandbox, 'sudo echo "$WORD"') == "\n"


@e2b("commands/test_env_vars.py::test_python_command_scoped_env_vars")
async def _(sandbox):
    program = "python3 -c \"import os; print(os.environ['WORD'])\""
    assert await output_of(sandbox, program, envs={"WORD": "given"}) == "given\n"


@e2b("commands/test_run.py::test_run")
async def _(sandbox):
    done = await do(sandbox.commands.run('echo "Hello, World!"'))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "Hello, World!\n", "")


@e2b("commands/test_run.py::test_run_with_special_characters")
async def _(sandbox):
    assert await output_of(sandbox, 'echo "!@#$%^&*()_+"') == "!@#$%^&*()_+\n"


@e2b("commands/test_run.py::test_run_with_broken_utf8")
async def _(sandbox):
    many = "a" * 8191
    assert await output_of(sandbox, f'printf "{many}\\xe2"') == many + "\ufffd"


@e2b("commands/test_run.py::test_run_with_multiline_string")
async def _(sandbox):
    assert await output_of(sandbox, 'echo "Hello,\nWorld!"') == "Hello,\nWorld!\n"


@e2b("commands/test_run.py::test_run_with_timeout")
async def _(sandbox):
    assert (await do(sandbox.commands.run("echo here", timeout=30))).exit_code == 0


@e2b("commands/test_run.py::test_run_with_too_short_timeout")
async def _(sandbox):
    await fails(TimeoutException, lambda: sandbox.commands.run("sleep 60", timeout=2))


@e2b("commands/test_run.py::test_run_with_too_short_timeout_iterating", SYNC)
async def _(sandbox):
    started = sandbox.commands.run("sleep 60", timeout=2, background=True)
    await fails(TimeoutException, lambda: list(started))


async def heard(sandbox, sent, send):
    """Has `cat` say what is sent to it."""
    said = []
    if is_async(sandbox):
        started = await sandbox.commands.run("cat", background=True, stdin=True, on_stdout=said.append)
        await send(started, sent)
        await until("cat says it", lambda: said)
        assert started.stdout == "".join(said)
    else:
        started = sandbox.commands.run("cat", background=True, stdin=True)
        send(started, sent)
        said.append(next(iter(started))[0])
    expected = sent.decode() if isinstance(sent, bytes) else sent
    assert said == [expected], said
    await do(started.kill())


@e2b("commands/test_send_stdin.py::test_send_stdin_to_process")
async def _(sandbox):
    await heard(sandbox, "Hello, World!", lambda it, text: sandbox.commands.send_stdin(it.pid, text))


@e2b("commands/test_send_stdin.py::test_send_bytes_stdin_to_process")
async def _(sandbox):
    await heard(sandbox, b"Hello, World!", lambda it, text: sandbox.commands.send_stdin(it.pid, text))


@e2b("commands/test_send_stdin.py::test_send_stdin_via_command_handle")
async def _(sandbox):
    await heard(sandbox, "Hello, World!", lambda it, text: it.send_stdin(text))


@e2b("commands/test_send_stdin.py::test_close_stdin_via_command_handle")
async def _(sandbox):
    started = await do(sandbox.commands.run("cat", background=True, stdin=True))
    await do(started.send_stdin("Hello, World!"))
    await do(started.close_stdin())
    done = await do(started.wait())
    assert (done.exit_code, done.stdout) == (0, "Hello, World!")


@e2b("commands/test_send_stdin.py::test_send_special_characters_to_process")
async def _(sandbox):
    await heard(sandbox, "!@#$%^&*()_+", lambda it, text: sandbox.commands.send_stdin(it.pid, text))


@e2b("commands/test_send_stdin.py::test_send_multiline_string_to_process")
async def _(sandbox):
    await heard(sandbox, "Hello,\nWorld!", lambda it, text: sandbox.commands.send_stdin(it.pid, text))


# Files.


@e2b("files/test_content_encoding.py::test_write_and_read_with_gzip")
async def _(sandbox):
    name, text = fresh(), "packed on both ways"
    assert (await do(sandbox.files.write(name, text, gzip=True))).path == f"{HOME}/{name}"
    assert await do(sandbox.files.read(name, gzip=True)) == text


@e2b("files/test_content_encoding.py::test_write_gzip_read_plain")
async def _(sandbox):
    name, text = fresh(), "packed on the way there"
    await do(sandbox.files.write(name, text, gzip=True))
    assert await do(sandbox.files.read(name)) == text


@e2b("files/test_content_encoding.py::test_write_files_with_gzip")
async def _(sandbox):
    files = [WriteEntry(path=fresh(), data=f"content {n}") for n in range(3)]
    assert len(await do(sandbox.files.write_files(files, gzip=True))) == 3
    for file in files:
        assert await do(sandbox.files.read(file["path"])) == file["data"]


@e2b("files/test_content_encoding.py::test_read_bytes_with_gzip")
async def _(sandbox):
    name, text = fresh(), "packed on the way back"
    await do(sandbox.files.write(name, text))
    read = await do(sandbox.files.read(name, format="bytes", gzip=True))
    assert isinstance(read, bytearray) and read.decode() == text


@e2b("files/test_exists.py::test_exists")
async def _(sandbox):
    name = fresh()
    assert not await do(sandbox.files.exists(name))
    await do(sandbox.files.write(name, "test"))
    assert await do(sandbox.files.exists(name))


@e2b("files/test_files_list.py::test_list_directory")
async def _(sandbox):
    top = fresh("dir")
    for folder in ["subdir1", "subdir2", "subdir1/subdir1_1", "subdir1/subdir1_2", "subdir2/subdir2_1", "subdir2/subdir2_2"]:
        await do(sandbox.files.make_dir(f"{top}/{folder}"))
    await do(sandbox.files.write(f"{top}/file1.txt", "Hello, world!"))
    flat = ["file1.txt", "subdir1", "subdir2"]
    deep = ["file1.txt", "subdir1", "subdir1/subdir1_1", "subdir1/subdir1_2", "subdir2", "subdir2/subdir2_1", "subdir2/subdir2_2"]
    for depth, expected in [(None, flat), (1, flat), (2, deep), (3, deep)]:
        listed = await do(sandbox.files.list(top, depth=depth))
        assert [entry.path for entry in listed] == [f"{HOME}/{top}/{path}" for path in expected], (depth, listed)
        assert [entry.name for entry in listed] == [path.rsplit("/", 1)[-1] for path in expected], (depth, listed)
        assert [entry.type for entry in listed] == [FileType.FILE] + [FileType.DIR] * (len(expected) - 1), listed
    await do(sandbox.files.remove(top))


@e2b("files/test_files_list.py::test_list_directory_error_cases")
async def _(sandbox):
    top = fresh("dir")
    await do(sandbox.files.make_dir(top))
    error = await fails(InvalidArgumentException, lambda: sandbox.files.list(top, depth=-1))
    assert "depth should be at least 1" in str(error)
    await do(sandbox.files.remove(top))


def of_the_user(entry, path, mode, letters):
    assert (entry.path, entry.name) == (path, path.rsplit("/", 1)[-1]), entry
    assert (entry.mode, entry.permissions, entry.owner, entry.group) == (mode, letters, "user", "user"), entry
    assert entry.modified_time is not None and entry.symlink_target is None, entry


def is_file(entry, path, size):
    of_the_user(entry, path, 0o644, "-rw-r--r--")
    assert (entry.type, entry.size) == (FileType.FILE, size), entry


def is_folder(entry, path):
    of_the_user(entry, path, 0o755, "drwxr-xr-x")
    assert entry.type == FileType.DIR, entry


@e2b("files/test_files_list.py::test_file_entry_details")
async def _(sandbox):
    top = fresh("dir")
    await do(sandbox.files.make_dir(top))
    await do(sandbox.files.write(f"{top}/test.txt", "Hello, World!"))
    (entry,) = await do(sandbox.files.list(top, depth=1))
    is_file(entry, f"{HOME}/{top}/test.txt", 13)
    await do(sandbox.files.remove(top))


@e2b("files/test_files_list.py::test_directory_entry_details")
async def _(sandbox):
    top = fresh("dir")
    await do(sandbox.files.make_dir(f"{top}/subdir"))
    (entry,) = await do(sandbox.files.list(top, depth=1))
    is_folder(entry, f"{HOME}/{top}/subdir")
    await do(sandbox.files.remove(top))


@e2b("files/test_files_list.py::test_mixed_entries")
async def _(sandbox):
    top = fresh("dir")
    await do(sandbox.files.make_dir(f"{top}/subdir"))
    await do(sandbox.files.write(f"{top}/test.txt", "Hello, World!"))
    entries = {entry.name: entry for entry in await do(sandbox.files.list(top, depth=1))}
    assert len(entries) == 2, entries
    is_folder(entries["subdir"], f"{HOME}/{top}/subdir")
    is_file(entries["test.txt"], f"{HOME}/{top}/test.txt", 13)
    await do(sandbox.files.remove(top))


async def here(sandbox):
    return (await output_of(sandbox, "pwd")).strip()


@e2b("files/test_info.py::test_get_info_of_file")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "test"))
    info = await do(sandbox.files.get_info(name))
    is_file(info, f"{await here(sandbox)}/{name}", 4)
    assert info.modified_time.tzinfo is not None


@e2b("files/test_info.py::test_get_info_of_nonexistent_file")
async def _(sandbox):
    await fails(FileNotFoundException, lambda: sandbox.files.get_info(fresh()))


@e2b("files/test_info.py::test_get_info_of_directory")
async def _(sandbox):
    name = fresh("dir")
    await do(sandbox.files.make_dir(name))
    info = await do(sandbox.files.get_info(name))
    is_folder(info, f"{await here(sandbox)}/{name}")
    assert info.size > 0 and info.modified_time.tzinfo is not None


@e2b("files/test_info.py::test_get_info_of_nonexistent_directory")
async def _(sandbox):
    await fails(FileNotFoundException, lambda: sandbox.files.get_info(f"{fresh('dir')}/within"))


@e2b("files/test_info.py::test_file_symlink")
async def _(sandbox):
    top = fresh("dir")
    await do(sandbox.files.make_dir(top))
    await do(sandbox.files.write(f"{top}/test.txt", "Hello, World!"))
    await do(sandbox.commands.run("ln -s test.txt link", cwd=top))
    info = await do(sandbox.files.get_info(f"{top}/link"))
    assert (info.type, info.symlink_target) == (FileType.FILE, f"{await here(sandbox)}/{top}/test.txt"), info
    await do(sandbox.files.remove(top))


@e2b("files/test_make_dir.py::test_make_directory")
async def _(sandbox):
    name = fresh("dir")
    await do(sandbox.files.make_dir(name))
    assert await do(sandbox.files.exists(name))


@e2b("files/test_make_dir.py::test_make_directory_already_exists")
async def _(sandbox):
    name = fresh("dir")
    assert await do(sandbox.files.make_dir(name)) is True
    assert await do(sandbox.files.make_dir(name)) is False


@e2b("files/test_make_dir.py::test_make_nested_directory")
async def _(sandbox):
    name = f"{fresh('dir')}/nested"
    await do(sandbox.files.make_dir(name))
    assert await do(sandbox.files.exists(name))


METADATA = {"author": "mish", "purpose": "upload"}


async def keeps_metadata(sandbox, **how):
    name = fresh()
    info = await do(sandbox.files.write(name, "with metadata", metadata=METADATA, **how))
    assert info.metadata == METADATA
    assert (await do(sandbox.files.get_info(name))).metadata == METADATA


@e2b("files/test_metadata.py::test_write_file_with_metadata")
async def _(sandbox):
    await keeps_metadata(sandbox)


@e2b("files/test_metadata.py::test_write_file_with_metadata_octet_stream")
async def _(sandbox):
    await keeps_metadata(sandbox, use_octet_stream=True)


@e2b("files/test_metadata.py::test_write_file_without_metadata")
async def _(sandbox):
    name = fresh()
    assert (await do(sandbox.files.write(name, "no metadata"))).metadata is None
    assert (await do(sandbox.files.get_info(name))).metadata is None


@e2b("files/test_metadata.py::test_write_files_applies_metadata_to_every_file")
async def _(sandbox):
    files = [WriteEntry(path=fresh(), data=f"content {n}") for n in range(2)]
    written = await do(sandbox.files.write_files(files, metadata=METADATA))
    assert len(written) == 2
    for info in written:
        assert info.metadata == METADATA
        assert (await do(sandbox.files.get_info(info.path))).metadata == METADATA


@e2b("files/test_metadata.py::test_metadata_surfaced_when_listing")
async def _(sandbox):
    top = fresh("dir")
    await do(sandbox.files.write(f"{top}/listed", "content", metadata=METADATA))
    (entry,) = await do(sandbox.files.list(top))
    assert entry.metadata == METADATA
    await do(sandbox.files.remove(top))


@e2b("files/test_metadata.py::test_metadata_surfaced_after_rename")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "content", metadata=METADATA))
    assert (await do(sandbox.files.rename(name, f"{name}_new"))).metadata == METADATA


@e2b("files/test_metadata.py::test_overwriting_clears_stale_metadata")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "first", metadata=METADATA))
    assert (await do(sandbox.files.write(name, "second"))).metadata is None
    assert (await do(sandbox.files.get_info(name))).metadata is None


@e2b("files/test_metadata.py::test_metadata_set_via_xattrs_surfaced_in_get_info")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "content"))
    await do(sandbox.commands.run(f"python3 -c \"import os; os.setxattr('{name}', 'user.e2b.author', b'mish')\""))
    assert (await do(sandbox.files.get_info(name))).metadata == {"author": "mish"}


@e2b("files/test_metadata.py::test_write_rejects_invalid_metadata")
async def _(sandbox):
    name = fresh()
    odd = [{"bad key": "value"}, {"": "value"}, {"good": "bad\nvalue"}, {"good": "value\n"}, {"key\n": "value"}]
    for metadata in odd:
        await fails(InvalidArgumentException, lambda: sandbox.files.write(name, "x", metadata=metadata))
    assert not await do(sandbox.files.exists(name))


@e2b("files/test_read.py::test_read_file")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "Hello, world!"))
    assert await do(sandbox.files.read(name)) == "Hello, world!"


@e2b("files/test_read.py::test_read_non_existing_file")
async def _(sandbox):
    await fails(FileNotFoundException, lambda: sandbox.files.read(fresh()))


@e2b("files/test_read.py::test_read_non_existing_file_catches_with_deprecated_not_found_exception")
async def _(sandbox):
    await fails(NotFoundException, lambda: sandbox.files.read(fresh()))


@e2b("files/test_read.py::test_read_empty_file")
async def _(sandbox):
    name = fresh()
    await do(sandbox.commands.run(f"touch {name}"))
    assert await do(sandbox.files.read(name)) == ""


async def long_file(sandbox):
    name, text = fresh(), "Streamed content. " * 10_000
    await do(sandbox.files.write(name, text))
    return name, text


@e2b("files/test_read.py::test_read_file_as_stream")
async def _(sandbox):
    name, text = await long_file(sandbox)
    assert (await joined(await do(sandbox.files.read(name, format="stream")))).decode() == text


@e2b("files/test_read.py::test_read_file_as_stream_with_gzip")
async def _(sandbox):
    name, text = await long_file(sandbox)
    assert (await joined(await do(sandbox.files.read(name, format="stream", gzip=True)))).decode() == text


@e2b("files/test_read.py::test_read_non_existing_file_as_stream")
async def _(sandbox):
    await fails(FileNotFoundException, lambda: sandbox.files.read(fresh(), format="stream"))


@e2b("files/test_read.py::test_read_file_as_stream_context_manager")
async def _(sandbox):
    name, text = await long_file(sandbox)
    opened = await do(sandbox.files.read(name, format="stream"))
    if is_async(sandbox):
        async with opened as stream:
            read = await joined(stream)
    else:
        with opened as stream:
            read = await joined(stream)
    assert read.decode() == text


@e2b("files/test_read.py::test_read_file_as_stream_partial_then_close")
async def _(sandbox):
    name, _text = await long_file(sandbox)
    stream = await do(sandbox.files.read(name, format="stream"))
    if is_async(sandbox):
        first = await anext(aiter(stream))
        await stream.aclose()
    else:
        first = next(iter(stream))
        stream.close()
    assert first


@e2b("files/test_remove.py::test_remove_file")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "This file will be removed."))
    await do(sandbox.files.remove(name))
    assert not await do(sandbox.files.exists(name))


@e2b("files/test_remove.py::test_remove_non_existing_file")
async def _(sandbox):
    await do(sandbox.files.remove(fresh()))


@e2b("files/test_rename.py::test_rename_file")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "This file will be renamed."))
    assert (await do(sandbox.files.rename(name, f"{name}_new"))).path == f"{HOME}/{name}_new"
    assert not await do(sandbox.files.exists(name))
    assert await do(sandbox.files.exists(f"{name}_new"))
    assert await do(sandbox.files.read(f"{name}_new")) == "This file will be renamed."


@e2b("files/test_rename.py::test_rename_non_existing_file")
async def _(sandbox):
    await fails(FileNotFoundException, lambda: sandbox.files.rename(fresh(), fresh()))


class NamedAgent:
    """The agent by a host of its own, as who has nothing but a URL reaches it."""

    def __init__(self, address, host):
        self.address, self.host = address, host

    def open(self, url, data=None):
        # This machine may resolve no `*.localhost`: the name goes where a browser would send it.
        path = url.split(self.host, 1)[1]
        request = urllib.request.Request(f"{self.address}{path}", data=data, headers={"Host": self.host})
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE)


async def opened(sandbox, expiration=None):
    name, text = fresh(), "read by whoever has the URL"
    await do(sandbox.files.write(name, text))
    url = sandbox.named.download_url(name, "user", expiration)
    with AGENT.open(url) as answer:
        assert (answer.status, answer.read().decode()) == (200, text)


@e2b("files/test_secured.py::test_download_url_with_signing")
async def _(sandbox):
    await opened(sandbox)


@e2b("files/test_secured.py::test_download_url_with_signing_and_expiration")
async def _(sandbox):
    await opened(sandbox, 120)


@e2b("files/test_secured.py::test_download_url_with_expired_signing")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "for nobody"))
    url = sandbox.named.download_url(name, "user", -120)
    error = await fails(urllib.error.HTTPError, lambda: AGENT.open(url))
    assert error.code == 401
    assert json.loads(error.read()) == {"code": 401, "message": "signature is already expired"}


class Watched:
    """What happens in a folder: asked for by one client, told to the other."""

    def __init__(self):
        self.events, self.handle = [], None

    async def start(self, sandbox, folder, **options):
        if is_async(sandbox):
            options["on_event"] = self.events.append
        self.handle = await do(sandbox.files.watch_dir(folder, **options))
        return self

    async def event(self, kind, name):
        def found():
            return next((event for event in self.events if (event.type, event.name) == (kind, name)), None)

        if hasattr(self.handle, "get_new_events"):
            # E2B's own asks once: what was answered for has happened.
            self.events += self.handle.get_new_events()
            assert found(), self.events
            return found()
        return await until(f"{kind} of {name}", found)

    async def stop(self):
        await do(self.handle.stop())


async def sees_a_write(sandbox, **options):
    top = fresh("dir")
    await do(sandbox.files.write(f"{top}/watched", "This file will be watched."))
    watched = await Watched().start(sandbox, top, **options)
    await do(sandbox.files.write(f"{top}/watched", "This file has been modified."))
    event = await watched.event(FilesystemEventType.WRITE, "watched")
    await watched.stop()
    return top, event


@e2b("files/test_watch.py::test_watch_directory_changes_with_entry_info")
async def _(sandbox):
    top, event = await sees_a_write(sandbox, include_entry=True)
    entry = event.entry
    assert (entry.name, entry.path, entry.type) == ("watched", f"{HOME}/{top}/watched", FileType.FILE), event


@e2b("files/test_watch.py::test_watch_directory_changes_with_network_mounts_allowed")
async def _(sandbox):
    await sees_a_write(sandbox, allow_network_mounts=True)


@e2b("files/test_watch.py::test_watch_directory_changes")
async def _(sandbox):
    await sees_a_write(sandbox)


@e2b("files/test_watch.py::test_watch_iterated", SYNC)
async def _(sandbox):
    top = fresh("dir")
    sandbox.files.make_dir(top)
    handle = sandbox.files.watch_dir(top)
    sandbox.files.write(f"{top}/watched", "This file will be watched.")
    events = handle.get_new_events()
    assert len(events) == 3, events
    sandbox.files.write(f"{top}/watched", "This file has been modified.")
    written = [event for event in handle.get_new_events() if event.type == FilesystemEventType.WRITE]
    assert [event.name for event in written] == ["watched"], written
    handle.stop()


@e2b("files/test_watch.py::test_watch_recursive_directory_changes")
async def _(sandbox):
    top = fresh("dir")
    await do(sandbox.files.make_dir(f"{top}/nested"))
    watched = await Watched().start(sandbox, top, recursive=True)
    await do(sandbox.files.write(f"{top}/nested/watched", "This file will be watched."))
    await watched.event(FilesystemEventType.WRITE, "nested/watched")
    assert len(watched.events) == 3, watched.events
    assert (watched.events[0].type, watched.events[0].name) == (FilesystemEventType.CREATE, "nested/watched")
    await watched.stop()


@e2b("files/test_watch.py::test_watch_recursive_directory_after_nested_folder_addition")
async def _(sandbox):
    top = fresh("dir")
    await do(sandbox.files.make_dir(top))
    watched = await Watched().start(sandbox, top, recursive=True)
    await do(sandbox.files.make_dir(f"{top}/nested"))
    await do(sandbox.files.write(f"{top}/nested/watched", "This file will be watched."))
    await watched.event(FilesystemEventType.WRITE, "nested/watched")
    await watched.event(FilesystemEventType.CREATE, "nested")
    await watched.stop()


@e2b("files/test_watch.py::test_watch_non_existing_directory")
async def _(sandbox):
    await fails(FileNotFoundException, lambda: Watched().start(sandbox, fresh("dir")))


@e2b("files/test_watch.py::test_watch_file")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "This file will be watched."))
    await fails(SandboxException, lambda: Watched().start(sandbox, name))


@e2b("files/test_watch.py::test_watch_file_with_secured_envd")
async def _(sandbox):
    name = fresh()
    watched = await Watched().start(sandbox, f"{HOME}/")
    await do(sandbox.files.write(name, "This file will be watched."))
    await watched.event(FilesystemEventType.WRITE, name)
    await watched.stop()


async def writes(sandbox, data, text, name=None, **how):
    name = name or fresh()
    info = await do(sandbox.files.write(name, data, **how))
    assert (info.path, info.type) == (f"{HOME}/{name}", FileType.FILE), info
    assert await do(sandbox.files.exists(name))
    assert await do(sandbox.files.read(name)) == text


@e2b("files/test_write.py::test_write_text_file")
async def _(sandbox):
    await writes(sandbox, "This is a test file.", "This is a test file.")


@e2b("files/test_write.py::test_write_binary_file")
async def _(sandbox):
    await writes(sandbox, io.BytesIO(b"This is a binary file."), "This is a binary file.")


@e2b("files/test_write.py::test_write_multiple_files")
async def _(sandbox):
    assert await do(sandbox.files.write_files([])) == []
    for count in [1, 10]:
        files = [WriteEntry(path=fresh(), data=f"content {n}") for n in range(count)]
        written = await do(sandbox.files.write_files(files))
        assert len(written) == count and all(isinstance(info, WriteInfo) for info in written), written
        for file, info in zip(files, written):
            assert (info.path, info.type) == (f"{HOME}/{file['path']}", FileType.FILE), info
            assert await do(sandbox.files.read(info.path)) == file["data"]


@e2b("files/test_write.py::test_overwrite_file")
async def _(sandbox):
    name = fresh()
    await do(sandbox.files.write(name, "Initial content."))
    await writes(sandbox, "New content.", "New content.", name)


@e2b("files/test_write.py::test_write_to_non_existing_directory")
async def _(sandbox):
    await writes(sandbox, "This works too.", "This works too.", f"{fresh('dir')}/file")


@e2b("files/test_write.py::test_write_with_secured_envd")
async def _(sandbox):
    assert await do(sandbox.is_running())
    assert sandbox._envd_version is not None and sandbox._envd_access_token is not None
    await writes(sandbox, "This works too.", "This works too.", f"{fresh('dir')}/file")


@e2b("files/test_write.py::test_write_files_with_different_data_types")
async def _(sandbox):
    kinds = [("text", "text"), (b"bytes", "bytes"), (io.BytesIO(b"of bytes"), "of bytes"), (io.StringIO("of text"), "of text")]
    files = [WriteEntry(path=fresh(), data=data) for data, _ in kinds]
    assert len(await do(sandbox.files.write_files(files))) == len(kinds)
    for file, (_, text) in zip(files, kinds):
        assert await do(sandbox.files.read(file["path"])) == text


MANY = "Streamed upload. " * 10_000


@e2b("files/test_write.py::test_write_io_with_octet_stream")
async def _(sandbox):
    await writes(sandbox, io.BytesIO(MANY.encode()), MANY, use_octet_stream=True)


@e2b("files/test_write.py::test_write_text_io_with_octet_stream")
async def _(sandbox):
    await writes(sandbox, io.StringIO("Streamed text."), "Streamed text.", use_octet_stream=True)


@e2b("files/test_write.py::test_write_io_with_octet_stream_and_gzip")
async def _(sandbox):
    await writes(sandbox, io.BytesIO(MANY.encode()), MANY, use_octet_stream=True, gzip=True)


# Terminals.


class Terminal:
    """A terminal of 80 columns and 24 rows, and what it says."""

    def __init__(self, sandbox):
        self.sandbox, self.said, self.handle = sandbox, [], None

    async def create(self, **options):
        options |= {"on_data": self.said.append} if is_async(self.sandbox) else {}
        self.handle = await do(self.sandbox.pty.create(PtySize(cols=80, rows=24), **options))
        return self

    async def connect(self, pid):
        options = {"on_data": self.said.append} if is_async(self.sandbox) else {}
        self.handle = await do(self.sandbox.pty.connect(pid, **options))
        return self

    async def send(self, text):
        await do(self.sandbox.pty.send_stdin(self.handle.pid, text))

    async def ends(self):
        if is_async(self.sandbox):
            done = await self.handle.wait()
        else:
            done = self.handle.wait(on_pty=self.said.append)
        assert done.exit_code == 0, done
        return b"".join(self.said).decode()


@e2b("pty/test_pty.py::test_pty", SYNC)
@e2b("pty/test_pty_create.py::test_pty_create", ASYNC)
async def _(sandbox):
    terminal = await Terminal(sandbox).create(envs={"WORD": "123"}, cwd="/")
    await terminal.send(b"echo $WORD; pwd\nexit\n")
    said = await terminal.ends()
    assert "123\r\n/\r\n" in said, said


@e2b("pty/test_pty_connect.py::test_connect_to_pty")
async def _(sandbox):
    first = await Terminal(sandbox).create(envs={"WORD": "bar"})
    await first.send(b"echo $WORD\n")
    if is_async(sandbox):
        await until("the first hears it", lambda: b"bar" in b"".join(first.said))
    await do(first.handle.disconnect())
    again = await Terminal(sandbox).connect(first.handle.pid)
    await again.send(b"echo $WORD\nexit\n")
    assert again.handle.pid == first.handle.pid
    assert "bar" in await again.ends()


@e2b("pty/test_pty_kill.py::test_kill_pty")
async def _(sandbox):
    terminal = await Terminal(sandbox).create()
    assert await do(sandbox.pty.kill(terminal.handle.pid))
    await fails(CommandExitException, lambda: sandbox.commands.run(f"kill -0 {terminal.handle.pid}"))


@e2b("pty/test_pty_kill.py::test_kill_non_existing_pty")
async def _(sandbox):
    assert not await do(sandbox.pty.kill(GONE))


@e2b("pty/test_resize.py::test_resize")
async def _(sandbox):
    for columns in [80, 100]:
        terminal = await Terminal(sandbox).create()
        if columns != 80:
            await do(sandbox.pty.resize(terminal.handle.pid, PtySize(cols=columns, rows=24)))
        await terminal.send(b"tput cols\nexit\n")
        said = await terminal.ends()
        assert f"{columns}\r\n" in said, said


@e2b("pty/test_send_input.py::test_send_input")
async def _(sandbox):
    terminal = await Terminal(sandbox).create()
    await terminal.send(b"exit\n")
    await terminal.ends()


async def killed(sandbox):
    """Whoever reads this line stops the agent: what runs in it is ended first, and its end is told."""
    started = await do(sandbox.commands.run("sleep 600", background=True))
    print(json.dumps({"running": started.pid}), flush=True)
    ended = await fails(CommandExitException, started.wait)
    assert ended.exit_code == -1, ended
    deadline = time.monotonic() + PATIENCE
    while await do(sandbox.is_running()):
        assert time.monotonic() < deadline, "it runs on"
        await asyncio.sleep(0.1)


def client(kind, url, headers):
    config = ConnectionConfig(sandbox_url=url, extra_sandbox_headers=headers, request_timeout=PATIENCE)
    return kind(
        sandbox_id=ID,
        sandbox_domain="localhost",
        envd_version=ENVD,
        envd_access_token=TOKEN,
        traffic_access_token=None,
        connection_config=config,
    )


async def tried(name, kind, sandbox, test):
    try:
        await asyncio.wait_for(test(sandbox), LIMIT)
        error = None
    except (Exception, asyncio.TimeoutError):
        error = traceback.format_exc(limit=-4)
    print(json.dumps({"test": name, "client": kind, "error": error}), flush=True)


async def main(mode):
    if mode == "proto":
        for clients in [client_sync, client_async]:
            clients.ENVD_JSON_CODEC = proto_binary_codec()
    headers = {"X-Access-Token": TOKEN, "E2b-Sandbox-Id": ID, "E2b-Sandbox-Port": str(ConnectionConfig.envd_port)}
    clients = {"sync": client(Sandbox, URL, headers), "async": client(AsyncSandbox, URL, headers)}
    for sandbox in clients.values():
        sandbox.named = client(Sandbox, f"http://{AGENT.host}", headers)
    if mode == "killed":
        name = "commands/test_sandbox_killed_during_run.py::test_kill_sandbox_while_command_is_running"
        return await tried(name, "sync", clients["sync"], killed)
    for name, kinds, test in TESTS:
        for kind in kinds:
            await tried(name, kind, clients[kind], test)


URL, ID, TOKEN, HOST = sys.argv[1:5]
AGENT = NamedAgent(URL, f"{ConnectionConfig.envd_port}-{HOST}")
asyncio.run(main(*(sys.argv[5:] or [""])))
