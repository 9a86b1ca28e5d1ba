// Stands for `solana sign --keypair FILE`: signs what it reads, and prints the signature in base58.
import { createPrivateKey, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';

const [verb, flag, file] = process.argv.slice(2);
if (verb !== 'sign' || flag !== '--keypair') throw new Error(`not understood: ${process.argv.slice(2)}`);
const seed = Buffer.from(JSON.parse(readFileSync(file, 'utf8')).slice(0, 32));
const header = Buffer.from('302e020100300506032b657004220420', 'hex');
const key = createPrivateKey({ key: Buffer.concat([header, seed]), format: 'der', type: 'pkcs8' });
const signature = sign(null, readFileSync(0), key);
const digits = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
let [number, text] = [BigInt(`0x${signature.toString('hex')}`), ''];
for (; number > 0n; number /= 58n) text = digits[Number(number % 58n)] + text;
for (const byte of signature) if (byte === 0) text = `1${text}`; else break;
console.log(text);
