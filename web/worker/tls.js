/**
 * TLS for the node: the WebAssembly module that is built from web/tls/engine.cc, loaded when it is first needed.
 *
 * Does: load the module, Mozilla's roots and the names of revoked certificates; hand bytes in and out. But for `load`,
 * all calls are synchronous; they throw if the module broke down (out of memory), which ends all its connections.
 * Does not: know what its numbers mean. tls.py, beside this file, is the other half.
 */

const FILES = ["tls/tls.wasm", "tls/roots.der", "tls/revoked.bin"];
const NOT_THERE = 52; // ENOSYS, to what the module's C library would ask of files
const BUFFER = 65536; // bytes: kBuffer of engine.cc
const RANDOM_LIMIT = 65536; // bytes that getRandomValues fills in one call

/** @param {(name: string) => Promise<Uint8Array>} read gives a file of the bundle */
export function createTls(read) {
  let engine = null;
  const bytes = (at, size) => new Uint8Array(engine.memory.buffer, at, size);
  const io = (size) => bytes(engine.buffer(), size); // anew each time: the memory moves when it grows
  const put = (...parts) => {
    let at = engine.buffer();
    if (parts.reduce((sum, { length }) => sum + length, 0) > BUFFER) throw new Error("too much for TLS at once");
    for (const part of parts) {
      bytes(at, part.length).set(part);
      at += part.length;
    }
  };
  const kept = (data) => {
    const at = engine.allocate(data.length);
    bytes(at, data.length).set(data);
    return at;
  };

  const system = {
    random_get(at, size) {
      for (let done = 0; done < size; done += RANDOM_LIMIT)
        crypto.getRandomValues(bytes(at + done, Math.min(RANDOM_LIMIT, size - done)));
      return 0;
    },
    clock_time_get(_clock, _precision, at) {
      new DataView(engine.memory.buffer).setBigUint64(at, BigInt(Date.now()) * 1_000_000n, true);
      return 0;
    },
    proc_exit(code) {
      throw new Error(`TLS broke down (${code})`);
    },
  };

  return {
    /** Rejects when a file cannot be loaded. @returns {Promise<number>} how many roots there are */
    async load() {
      const [code, roots, revoked] = await Promise.all(FILES.map(read));
      const module = await WebAssembly.compile(code);
      const named = WebAssembly.Module.imports(module).map(({ name }) => [name, system[name] ?? (() => NOT_THERE)]);
      const { exports } = await WebAssembly.instantiate(module, { wasi_snapshot_preview1: Object.fromEntries(named) });
      engine = exports;
      engine._initialize();
      const count = engine.setup(kept(roots), roots.length, kept(revoked), revoked.length);
      if (count < 0) throw new Error("TLS has no roots");
      return count;
    },

    connect(host, protocols, now) {
      put(host, protocols);
      return engine.connect(host.length, protocols.length, now);
    },
    receive(connection, data) {
      put(data);
      engine.receive(connection, data.length);
    },
    write(connection, data) {
      put(data);
      return engine.write(connection, data.length);
    },
    /** @returns {Uint8Array|number} a view that holds until the next call; or why there is none */
    read(connection) {
      const size = engine.read(connection);
      return size > 0 ? io(size) : size;
    },
    take: (connection) => io(engine.take(connection)),
    protocol: (connection) => io(engine.protocol(connection)),
    reason: () => io(engine.reason()),
    handshake: (connection) => engine.handshake(connection),
    verdict: (connection) => engine.verdict(connection),
    end: (connection) => engine.end(connection),
    close: (connection) => engine.close(connection),
  };
}
