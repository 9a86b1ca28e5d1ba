// x402-fetch 1.2.0 as its README has it: pays a URL, says what came.
import { createSigner, decodeXPaymentResponse, wrapFetchWithPayment } from 'x402-fetch';

const [url, key] = process.argv.slice(2);
const signer = await createSigner('base-sepolia', key);
const response = await wrapFetchWithPayment(fetch, signer)(url, { method: 'POST', body: 'hello' });
const receipt = response.headers.get('x-payment-response');
console.log(
  JSON.stringify({
    status: response.status,
    body: await response.text(),
    receipt: receipt && decodeXPaymentResponse(receipt),
  }),
);
