// A process that was started before its function was known: waits for it, and becomes what it would be otherwise.

import { readSync } from "node:fs";
import Module from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { FD, Kind, PREFIX_BYTES, parsedFrame } from "./channel.mjs";
import { loadHandler } from "./handler.mjs";
import { Invocation } from "./invocation.mjs";

const ASSIGNMENT_BYTES_MAX = 1024 * 1024;

// V8 compiles code that has run a few times.
const REHEARSALS = 20;

/**
 * Does what an instance does until its first answers, for nobody: Node.js loads much of itself only when it is first
 * needed. `bootstrapUrl` is the entry point's own URL.
 */
export async function rehearse(bootstrapUrl) {
  const folder = dirname(fileURLToPath(import.meta.url));
  const header = { id: "rehearsal", arn: "arn", deadline_ms: 0, client_context: null, cognito: null };
  const event = Buffer.from('{"name":"x","list":[1,2.5,null,true]}');
  for (const name of ["rehearsal.handler", "rehearsal-required.handler"]) {
    const handler = await loadHandler(folder, name, bootstrapUrl);
    for (let count = 0; count < REHEARSALS; count += 1) {
      await new Promise((done) => new Invocation(header, { succeed: done, fail: done }, false).run(handler, event));
    }
  }
}

/** Returns when the first frame has said what this process is for; nothing else can happen meanwhile. */
export function waitForFunction() {
  const prefix = read(PREFIX_BYTES);
  const frameBytes = prefix.readUInt32LE(0) + 4;
  if (frameBytes < PREFIX_BYTES || frameBytes > ASSIGNMENT_BYTES_MAX) {
    process.exit(1);
  }
  const { kind, header } = parsedFrame(Buffer.concat([prefix, read(frameBytes - PREFIX_BYTES)]));
  if (kind !== Kind.ASSIGN) {
    process.exit(1);
  }
  takeOver(header.environment);
}

function read(bytes) {
  const octets = Buffer.alloc(bytes);
  let filled = 0;
  while (filled < bytes) {
    const got = readSync(FD, octets, filled, bytes - filled, null);
    if (got === 0) {
      // The platform does not need this process any more.
      process.exit(0);
    }
    filled += got;
  }
  return octets;
}

function takeOver(environment) {
  for (const name of Object.keys(process.env)) {
    if (!Object.hasOwn(environment, name)) {
      delete process.env[name];
    }
  }
  Object.assign(process.env, environment);
  // NODE_PATH is read when Node.js starts.
  Module._initPaths?.();
  process.chdir(environment.LAMBDA_TASK_ROOT);
}
