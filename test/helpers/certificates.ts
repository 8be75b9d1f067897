/**
 * Certificates for tests, made with `openssl` when they are needed: nothing in the repository expires, and no key lies in
 * it. Where openssl is missing, tests are skipped with that reason; with DMQ_REQUIRE_INTEROP=1 it is a failure.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeWhere } from "./needs.ts";

const PROBLEM = Bun.which("openssl") === null ? "openssl is not installed" : undefined;

/** `describe` for tests that need certificates. */
export function describeTls(name: string, body: () => void): void {
  describeWhere(PROBLEM, name, body);
}

/** Paths of PEM files. */
export interface Pair {
  cert: string;
  key: string;
}

const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/** A time as `openssl ca` wants it, `days` from now. */
function openSslTime(days: number): string {
  const iso = new Date(Date.now() + days * 86_400_000).toISOString();
  return `${iso.slice(0, 19).replace(/[-:T]/g, "")}Z`;
}

/** A directory with authorities and what they signed. `remove` it at the end. */
export class Certificates {
  readonly dir: string = mkdtempSync(join(tmpdir(), "dt-"));
  #count = 0;

  #openssl(...args: string[]): void {
    const done = Bun.spawnSync(["openssl", ...args], {
      cwd: this.dir,
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    if (done.exitCode !== 0) throw new Error(`openssl ${args[0]} ended with ${done.exitCode}: ${done.stderr}`);
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  /** An authority, self-signed. */
  authority(name: string): Pair {
    return this.#ownSigned(name);
  }

  #ownSigned(name: string, ...more: string[]): Pair {
    const pair = { cert: this.path(`${name}.pem`), key: this.path(`${name}.key`) };
    const out = ["-keyout", pair.key, "-out", pair.cert];
    this.#openssl("req", "-x509", ...KEY, "-days", "30", "-subj", `/CN=${name}`, ...more, ...out);
    return pair;
  }

  /**
   * A certificate that `authority` vouches for.
   *
   * @param names  the subjectAltName as openssl takes it: `IP:127.0.0.1,DNS:node1.example,URI:sip:node1.example`
   * @param from   days from now until it becomes valid, negative for the past; `to` likewise for its end
   */
  issue(authority: Pair, names: string, { from = -1, to = 30 }: { from?: number; to?: number } = {}): Pair {
    const name = `node${++this.#count}`;
    const pair = { cert: this.path(`${name}.pem`), key: this.path(`${name}.key`) };
    const request = this.path(`${name}.csr`);
    const config = this.path(`${name}.cnf`);
    const lines = [
      ...["[ca]", "default_ca=c", "[c]", `database=${name}.db`, "new_certs_dir=.", "rand_serial=yes"],
      ...["default_md=sha256", "policy=p", "x509_extensions=x", "[p]", "commonName=supplied"],
      ...["[x]", `subjectAltName=${names}`, "extendedKeyUsage=serverAuth,clientAuth"],
    ];
    writeFileSync(config, `${lines.join("\n")}\n`);
    writeFileSync(this.path(`${name}.db`), "");
    this.#openssl("req", ...KEY, "-subj", `/CN=${name}`, "-keyout", pair.key, "-out", request);
    const signer = ["-cert", authority.cert, "-keyfile", authority.key];
    const dates = ["-startdate", openSslTime(from), "-enddate", openSslTime(to)];
    this.#openssl("ca", "-batch", "-notext", "-config", config, ...signer, ...dates, "-in", request, "-out", pair.cert);
    return pair;
  }

  /** An authority that `authority` vouches for. */
  intermediate(authority: Pair, name: string): Pair {
    const pair = { cert: this.path(`${name}.pem`), key: this.path(`${name}.key`) };
    const signer = ["-CA", authority.cert, "-CAkey", authority.key, "-CAcreateserial", "-days", "30"];
    const extensions = this.path(`${name}.ext`);
    writeFileSync(extensions, "basicConstraints=critical,CA:TRUE\n");
    this.#openssl("req", ...KEY, "-subj", `/CN=${name}`, "-keyout", pair.key, "-out", this.path(`${name}.csr`));
    this.#openssl("x509", "-req", "-in", `${name}.csr`, ...signer, "-extfile", extensions, "-out", pair.cert);
    return pair;
  }

  /** A certificate that nobody but itself vouches for. */
  selfSigned(names: string): Pair {
    return this.#ownSigned(`node${++this.#count}`, "-addext", `subjectAltName=${names}`);
  }

  remove(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}
