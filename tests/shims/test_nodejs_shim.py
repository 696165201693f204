"""The Node.js shim: what a handler sees, what its caller gets, what the log holds."""

import json
import re
import signal

import pytest
from guest import ARN, ERROR, REQUEST_ID, RESPONSE, RESPONSE_BYTES_MAX
from test_python_shim import GOOD_HEADER, MALFORMED, _frame

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_answers_and_reuses_the_module(js):
    guest = js("let count = 0;\nexports.handler = async (event) => [++count, event];").ready()
    assert guest.value({"a": "ü"}) == [1, {"a": "ü"}]
    assert guest.value([None, True, 1.5], request_id="second") == [2, [None, True, 1.5]]
    assert guest.close() == 0


CJS = "exports.handler = async () => 'here';"
ESM = "export const handler = async () => 'here';"


@pytest.mark.parametrize(
    "handler, files",
    [
        ("app.handler", {"app.js": CJS}),
        ("app.handler", {"app.cjs": CJS}),
        ("app.handler", {"app.mjs": ESM}),
        ("app.handler", {"app.js": ESM, "package.json": '{"type": "module"}'}),
        ("app.handler", {"app.cjs": CJS, "package.json": '{"type": "module"}'}),
        ("app.handler", {"app.js": CJS, "app.mjs": "export const handler = async () => 'not here';"}),
        ("dir/app.handler", {"dir/app.js": CJS}),
        ("dir/app.handler", {"dir/app.mjs": ESM}),
        ("dir/app.handler", {"dir/app.js": CJS, "package.json": '{"type": "module"}', "dir/package.json": "{}"}),
        ("app.handler", {"app/index.js": CJS}),
        ("app.handler", {"app/other.js": "", "app.js": CJS}),
        ("app.deep.er.handler", {"app.js": "exports.deep = {er: {handler: async () => 'here'}};"}),
        ("pkg.handler", {"node_modules/pkg/index.js": CJS}),
        ("app.handler", {"app.mjs": "import {readFile} from 'node:fs/promises';\nawait readFile('app.mjs');\n" + ESM}),
        (
            "app.handler",
            {
                "app.mjs": "import {h} from './lib.cjs';\nexport const handler = h;",
                "lib.cjs": "exports.h = async () => 'here';",
            },
        ),
    ],
)
def test_finds_the_handler(js, handler, files):
    assert js(handler=handler, files=files).ready().value() == "here"


def _init_error(guest):
    error = guest.init_error()
    assert set(error) == {"errorType", "errorMessage", "trace"}
    log = guest.log()
    assert re.match(STAMP + r"\tundefined\tERROR\tUncaught Exception \t\{", log), log
    logged = json.loads(log.split("\t")[-1])
    assert (logged["errorType"], logged["errorMessage"]) == (error["errorType"], error["errorMessage"])
    return error["errorType"], error["errorMessage"]


@pytest.mark.parametrize(
    "handler, source, error_type, message",
    [
        ("nope.handler", "", "Runtime.ImportModuleError", "Error: Cannot find module 'nope'\nRequire stack:\n- "),
        (
            "app.handler",
            "require('nope')",
            "Runtime.ImportModuleError",
            "Error: Cannot find module 'nope'\nRequire stack:\n- ",
        ),
        ("app.handler", "exports.x = 1", "Runtime.HandlerNotFound", "app.handler is undefined or not exported"),
        ("app.handler", "exports.handler = 1", "Runtime.HandlerNotFound", "app.handler is not a function"),
        ("app", "", "Runtime.MalformedHandlerName", "Bad handler"),
        ("../app.handler", "", "Runtime.MalformedHandlerName", "'../app.handler' is not a valid handler name."),
        ("app.handler", "exports.handler = {", "Runtime.UserCodeSyntaxError", "SyntaxError: Unexpected end of input"),
        ("app.handler", "null.x", "TypeError", "Cannot read properties of null (reading 'x')"),
    ],
)
def test_init_faults(js, handler, source, error_type, message):
    guest = js(source, handler)
    seen_type, seen_message = _init_error(guest)
    assert seen_type == error_type
    assert seen_message.startswith(message)


def test_init_throws_something_else(js):
    assert js("throw 'text'").init_error() == {"errorType": "string", "errorMessage": "text", "trace": []}


def test_rejection_during_init(js):
    source = "Promise.reject(new Error('lost')); await new Promise((done) => setTimeout(done, 60_000));"
    guest = js(files={"app.mjs": source})
    error = guest.init_error()
    assert (error["errorType"], error["errorMessage"]) == ("Runtime.UnhandledPromiseRejection", "Error: lost")


def test_missing_import_of_a_module(js):
    guest = js(files={"app.mjs": "import 'nope';"})
    error_type, message = _init_error(guest)
    assert (error_type, message.split(" imported from")[0]) == ("Error", "Cannot find package 'nope'")


def test_module_that_never_loads(js):
    guest = js(files={"app.mjs": "await new Promise(() => {});"})
    assert guest.receive() is None
    assert guest.exit_status() == 13


def test_exit_while_loading(js):
    guest = js("console.log('leaving'); process.exit(7);")
    assert guest.receive() is None
    assert guest.exit_status() == 7
    assert guest.log().endswith("\tundefined\tINFO\tleaving\n")


@pytest.mark.parametrize(
    "body, value",
    [
        ("callback(null, 'called')", "called"),
        ("callback()", None),
        ("context.succeed('yes')", "yes"),
        ("context.done(null, 'done')", "done"),
        ("setTimeout(() => callback(null, 'later'), 5)", "later"),
        ("return Promise.resolve('promise')", "promise"),
        ("return {then: (resolve) => resolve('thenable')}", "thenable"),
        ("return 'ignored'", None),
        ("callback(null, 'first'); callback(null, 'second'); callback(new Error())", "first"),
        ("callback(null, 'first'); throw new Error('late')", "first"),
        ("return new Promise(() => {})", None),
        ("callback(null, () => 1)", None),
        ("callback(null, {toJSON: () => 'own form'})", "own form"),
        ("setTimeout(() => { seen = 'timer ran'; }, 5); callback(null, {toJSON: () => seen})", "timer ran"),
        ("context.callbackWaitsForEmptyEventLoop = false; setTimeout(() => {}, 60_000); callback(null, 'now')", "now"),
        ("setTimeout(() => {}, 60_000); context.succeed('at once')", "at once"),
    ],
)
def test_ways_to_succeed(js, body, value):
    guest = js("let seen = 'nothing';\nexports.handler = (event, context, callback) => { %s; };" % body).ready()
    assert guest.value() == value
    assert guest.value(request_id="next") == value


@pytest.mark.parametrize(
    "body, error_type, message",
    [
        ("callback(new TypeError('boom'))", "TypeError", "boom"),
        ("callback('text')", "string", "text"),
        ("context.fail(new Error('failed'))", "Error", "failed"),
        ("context.fail()", "string", "handled"),
        ("context.done('done')", "string", "done"),
        ("throw new RangeError('thrown')", "RangeError", "thrown"),
        ("throw null", "string", "handled"),
        ("return Promise.reject(new Error('rejected'))", "Error", "rejected"),
        ("return Promise.reject()", "string", "handled"),
        ("return Promise.reject({plain: 1})", "object", "[object Object]"),
        ("return Promise.reject(42)", "number", "42"),
        (
            "class Own extends Error { constructor() { super('own'); this.name = 'Own'; } } throw new Own()",
            "Own",
            "own",
        ),
        ("callback(Object.create(null))", "handled", None),
        ("const loop = {}; loop.loop = loop; callback(null, loop)", "Error", "Unable to stringify response body"),
        ("return Promise.resolve(1n)", "Error", "Unable to stringify response body"),
        ("const e = new Error('loop'); e.self = e; throw e", "Error", "loop"),
    ],
)
def test_ways_to_fail(js, body, error_type, message):
    guest = js("exports.handler = (event, context, callback) => { %s; };" % body).ready()
    for request_id in ("first", "second"):
        error = guest.error(request_id=request_id)
        assert set(error) == {"errorType", "errorMessage", "trace"}
        assert error["errorType"] == error_type
        assert message is None or error["errorMessage"] == message
        assert re.match(STAMP + r"\t%s\tERROR\tInvoke Error \t\{" % request_id, guest.log())


def test_trace_of_an_error(js, task_root):
    guest = js("const inner = () => { throw new Error('boom'); };\nexports.handler = async () => inner();").ready()
    error = guest.error()
    assert error["trace"][0] == "Error: boom"
    assert error["trace"][1].startswith("    at inner (%s/app.js:1:" % task_root)
    logged = json.loads(guest.log().split("\t")[-1])
    assert logged["stack"] == error["trace"]


@pytest.mark.parametrize(
    "body, error_type, message, title, status",
    [
        ("setImmediate(() => { throw new RangeError('loose'); })", "RangeError", "loose", "Uncaught Exception", 129),
        (
            "Promise.reject(new Error('lost')); setTimeout(() => {}, 60_000)",
            "Runtime.UnhandledPromiseRejection",
            "Error: lost",
            "Unhandled Promise Rejection",
            128,
        ),
    ],
)
def test_failures_outside_the_handler(js, body, error_type, message, title, status):
    guest = js("exports.handler = () => { %s; };" % body).ready()
    error = guest.error(exiting=True)
    assert (error["errorType"], error["errorMessage"]) == (error_type, message)
    assert error["trace"][0] == error_type + ": " + message
    assert guest.receive() is None
    assert guest.exit_status() == status
    assert re.match(STAMP + r"\t" + REQUEST_ID + r"\tERROR\t%s \t\{" % title, guest.log())


def test_failure_between_invocations(js):
    source = """
process.on('SIGUSR2', () => { throw new Error('idle'); });
exports.handler = async () => 1;"""
    guest = js(source).ready()
    assert guest.value() == 1
    guest.process.send_signal(signal.SIGUSR2)
    assert guest.receive() is None
    assert guest.exit_status() == 129


def test_context(js):
    source = """
exports.handler = async (event, context) => {
  const {getRemainingTimeInMillis, succeed, fail, done, ...plain} = context;
  return {...plain, remaining: getRemainingTimeInMillis(), trace: process.env._X_AMZN_TRACE_ID ?? null};
};"""
    guest = js(source).ready()
    seen = guest.value()
    assert 0 < seen.pop("remaining") <= 3000
    expected = {
        "callbackWaitsForEmptyEventLoop": True,
        "functionVersion": "$LATEST",
        "functionName": "f",
        "memoryLimitInMB": "128",
        "logGroupName": "/aws/lambda/f",
        "logStreamName": "2026/01/01/[$LATEST]0123456789abcdef0123456789abcdef",
        "invokedFunctionArn": ARN,
        "awsRequestId": REQUEST_ID,
        "trace": "Root=1-5759e988-bd862e3fe1be46a994272793",
    }
    assert seen == expected
    seen = guest.value(client_context='{"custom": {"k": "v"}}', cognito='{"cognitoIdentityId": "i"}', trace_id=None)
    assert seen["clientContext"] == {"custom": {"k": "v"}}
    assert seen["identity"] == {"cognitoIdentityId": "i"}
    assert seen["trace"] is None
    assert guest.error(client_context="{")["errorMessage"].startswith("Cannot parse ClientContext as json: ")


def test_console(js):
    source = """
console.log('in Init');
exports.handler = async (event) => {
  console.log('a %s', 'log', {b: 1});
  console.info('two\\nlines');
  console.debug('debug'); console.warn('warn'); console.error('error'); console.trace('trace');
  process.stdout.write('raw\\n');
  process.stderr.write('raw error\\n');
  require('node:child_process').spawnSync('/bin/echo', ['child'], {stdio: 'inherit'});
};"""
    guest = js(source).ready()
    assert re.fullmatch(STAMP + "\tundefined\tINFO\tin Init\n", guest.log())
    guest.value(request_id="one")
    expected = [
        "INFO\ta log { b: 1 }",
        "INFO\ttwo\nlines",
        "DEBUG\tdebug",
        "WARN\twarn",
        "ERROR\terror",
        "TRACE\ttrace",
    ]
    log = re.sub(STAMP, "T", guest.log())
    assert log == "".join("T\tone\t%s\n" % line for line in expected) + "raw\nraw error\nchild\n"


def test_console_as_json(js):
    source = """
exports.handler = async () => {
  console.debug('no');
  console.info('hello %s', 'you');
  console.warn({a: 1});
  throw new TypeError('boom');
};"""
    guest = js(source, AWS_LAMBDA_LOG_FORMAT="JSON", AWS_LAMBDA_LOG_LEVEL="INFO").ready()
    guest.error()
    info, warn, error = map(json.loads, guest.log().splitlines())
    assert re.fullmatch(STAMP, info.pop("timestamp"))
    assert info == {"level": "INFO", "requestId": REQUEST_ID, "message": "hello you"}
    assert warn["message"] == {"a": 1}
    assert (error["level"], error["message"]["errorType"], error["message"]["errorMessage"]) == (
        "ERROR",
        "TypeError",
        "boom",
    )


def test_much_output_is_there_before_the_answer(js):
    source = """
exports.handler = async (n) => {
  for (let i = 0; i < n; i++) {
    console.log('x'.repeat(999));
    process.stdout.write('y'.repeat(999) + '\\n');
  }
};"""
    guest = js(source).ready()
    guest.value(1000)
    log = guest.log()
    assert (log.count("x"), log.count("y")) == (999_000, 999_000)


def test_closed_output(js):
    source = """
const fs = require('node:fs');
exports.handler = async (event) => {
  if (event) throw new Error();
  fs.closeSync(1);
  fs.closeSync(2);
  console.log('lost');
  return 'alive';
};"""
    guest = js(source).ready()
    guest.start_invocation(b"null")
    assert guest.answer() == (RESPONSE, {"id": REQUEST_ID}, "alive")
    assert guest.error(1)["errorType"] == "Error"


@pytest.mark.parametrize(
    "action, status",
    [
        ("process.exit(3)", 3),
        ("process.exit()", 0),
        ("process.abort()", -signal.SIGABRT),
        ("process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 60_000)", -signal.SIGTERM),
    ],
)
def test_ends_of_the_process(js, action, status):
    guest = js("exports.handler = () => { process.stdout.write('last words'); %s; };" % action).ready()
    assert guest.invoke() is None
    assert guest.exit_status() == status
    assert guest.log().startswith("last words")


@pytest.mark.parametrize("length, fits", [(RESPONSE_BYTES_MAX - 2, True), (RESPONSE_BYTES_MAX - 1, False)])
def test_large_answers(js, length, fits):
    guest = js("exports.handler = async (n) => 'x'.repeat(n);").ready()
    if fits:
        assert len(guest.value(length)) == length
    else:
        assert guest.error(length) == {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        }
    assert guest.value(1) == "x"


def test_error_type_in_the_header_is_short_text(js):
    source = "exports.handler = async (name) => { const e = new Error(); e.name = name; throw e; };"
    guest = js(source).ready()
    for name, in_header in [("E" * 100_000, "E" * 256), ("half \ud800", "half \ufffd"), (5, "5")]:
        kind, header, error = guest.invoke(name)
        assert (kind, header["type"], error["errorType"]) == (ERROR, in_header, name)


def test_large_errors_and_events(js):
    source = """
exports.handler = async (event) => {
  if (event > 1) throw new Error('x'.repeat(event));
  return event.length;
};"""
    guest = js(source).ready()
    assert guest.error(7_000_000)["errorType"] == "Function.ResponseSizeTooLarge"
    assert guest.value("ä" * 1_000_000) == 1_000_000


def test_bad_event(js):
    guest = js("exports.handler = async () => 1;").ready()
    guest.start_invocation(b"{")
    kind, header, error = guest.answer()
    assert (kind, error["errorType"]) == (ERROR, "SyntaxError")


def test_children_do_not_get_the_channel(js):
    source = """
const {spawnSync} = require('node:child_process');
const has = (fd) => spawnSync('/bin/sh', ['-c', `test -e /proc/$$/fd/${fd}`]).status === 0;
exports.handler = async () => [has(2), has(3)];"""
    assert js(source).ready().value() == [True, False]


def test_work_goes_on_between_invocations(js):
    source = """
let ticks = 0;
exports.handler = async (event) => {
  if (event === 'start') { setInterval(() => ticks++, 1).unref(); return 0; }
  while (ticks === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  return ticks > 0;
};"""
    guest = js(source).ready()
    guest.value("start")
    assert guest.value("look") is True
    assert guest.close() == 0


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED)
def test_malformed_frames(js, frame):
    guest = js("exports.handler = () => { setTimeout(() => {}, 60_000); };").ready()
    guest.send_bytes(frame)
    assert guest.exit_status() == 1
    assert guest.log().startswith("tidegate: the channel to the platform failed")


def test_frames_in_pieces(js):
    guest = js("exports.handler = async (event) => event;").ready()
    frame = _frame(1, GOOD_HEADER, json.dumps("x" * 300).encode())
    for start in range(0, len(frame), 3):
        guest.send_bytes(frame[start : start + 3])
    assert guest.answer() == (RESPONSE, {"id": "1"}, "x" * 300)


def test_end_during_an_invocation(js):
    guest = js("exports.handler = () => { console.log('busy'); setTimeout(() => {}, 60_000); };").ready()
    guest.start_invocation(b"{}")
    assert guest.close() == 0
