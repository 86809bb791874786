// Write IMAGE to DEVICE... with etcher-sdk as Etcher does: all at once, verified, free space left out.
// Usage: NODE_PATH=.../node_modules node etcher.js IMAGE DEVICE...
'use strict';
const sdk = require('etcher-sdk');

const [image, ...devices] = process.argv.slice(2);

const drive = (device) => ({
  device, raw: device, devicePath: null, description: device, size: null, mountpoints: [],
  isSystem: false, isReadOnly: false, isRemovable: true, busType: 'USB', enumerator: 'bench',
});

async function main() {
  const { sourceDestination: { File, BlockDevice }, multiWrite: { decompressThenFlash } } = sdk;
  const result = await decompressThenFlash({
    source: new File({ path: image }),
    destinations: devices.map((device) => new BlockDevice({ drive: drive(device), write: true, direct: true })),
    onFail: (destination, error) => console.error(`${destination.path}: ${error}`),
    onProgress: () => {},
    verify: true,
    trim: true,
    decompressFirst: true,
  });
  console.log(`${result.bytesWritten} bytes written, ${result.failures.size} failures`);
  process.exit(result.failures.size ? 1 : 0);
}

main().catch((error) => { console.error(error); process.exit(1); });
