// Makes the npm packages: the platform package with this machine's binary (through prebuildify) and
// the main package, which lists the platform packages as optional dependencies. The checkout's own
// package.json doesn't list them, so that it can be installed before they are published.
//   node scripts/pack_platform.mjs [--out FOLDER] [--local]
// --local: the main package points at the tarball beside it and lists no other platform; for trying
// the packages out before publishing.
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

import { ScriptError, buildFolder, main, root, run } from './checkout.mjs';
import { buildNative, setUpDist } from './setup.mjs';

const readJson = (file) => JSON.parse(readFileSync(file, 'utf8'));

/** The folder under npm/ for this machine. */
function platformName() {
  const glibc = process.report.getReport().header.glibcVersionRuntime !== undefined;
  const libc = process.platform === 'linux' ? (glibc ? '-gnu' : '-musl') : '';
  return `${process.platform}-${process.arch}${libc}`;
}

function pack(folder, out) {
  const { stdout } = run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', out], {
    capture: true,
    cwd: folder,
  });
  const packed = JSON.parse(stdout);
  return path.join(out, (Array.isArray(packed) ? packed : Object.values(packed))[0].filename);
}

/** Builds and packs both; returns the paths of the tarballs. */
export function packPlatform({ out, local }) {
  const name = platformName();
  const folder = path.join(root, 'npm', name);
  const version = readJson(path.join(root, 'package.json')).version;
  if (readJson(path.join(folder, 'package.json')).version !== version) {
    throw new ScriptError(`npm/${name}/package.json isn't at version ${version}`);
  }
  rmSync(path.join(folder, 'prebuilds'), { recursive: true, force: true });
  const prebuildify = path.join(root, 'node_modules', '.bin', 'prebuildify');
  const shim = path.join(root, 'scripts', 'gyp_shim.sh');
  const naming = [
    '--napi',
    '--strip',
    '--tag-libc',
    '-t',
    process.versions.node,
    '--name',
    'lowrank',
  ];
  run(prebuildify, naming.concat('--node-gyp', shim, '--out', folder));
  buildNative(['lowrank_node'], { capture: true }); // prebuildify moved the file away
  mkdirSync(out, { recursive: true });
  const platform = pack(folder, out);

  rmSync(path.join(root, 'dist'), { recursive: true, force: true });
  setUpDist();
  const stage = path.join(buildFolder, 'package');
  rmSync(stage, { recursive: true, force: true });
  mkdirSync(stage, { recursive: true });
  const manifest = readJson(path.join(root, 'package.json'));
  for (const entry of readdirSync(root)) {
    if (entry === 'dist' || /^(README|CHANGELOG|LICENSE)/.test(entry)) {
      cpSync(path.join(root, entry), path.join(stage, entry), { recursive: true });
    }
  }
  delete manifest.scripts;
  delete manifest.devDependencies;
  delete manifest.binary;
  // The CUDA plug-in is for those who ask for it.
  const platforms = readdirSync(path.join(root, 'npm')).filter((each) => !each.endsWith('-cuda'));
  manifest.optionalDependencies = local
    ? { [`@lowrank/${name}`]: `file:${platform}` }
    : Object.fromEntries(platforms.map((each) => [`@lowrank/${each}`, version]));
  writeFileSync(path.join(stage, 'package.json'), JSON.stringify(manifest, null, 2) + '\n');
  return { platform, main: pack(stage, out) };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { values } = parseArgs({
    options: { out: { type: 'string' }, local: { type: 'boolean' } },
  });
  await main(() => {
    const out = path.resolve(values.out ?? path.join(buildFolder, 'packages'));
    const tarballs = packPlatform({ out, local: values.local ?? false });
    for (const file of Object.values(tarballs)) console.log(path.relative(process.cwd(), file));
  });
}
