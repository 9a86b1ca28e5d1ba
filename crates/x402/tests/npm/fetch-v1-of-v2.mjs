// @x402/fetch with its own support of version 1, behind a proxy that drops the
// headers of version 2.
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from '@x402/fetch';
import { ExactEvmSchemeV1 } from '@x402/evm/v1';
import { privateKeyToAccount } from 'viem/accounts';

const [url, key] = process.argv.slice(2);
const old = async (...request) => {
  const answer = await fetch(...request);
  const headers = new Headers(answer.headers);
  headers.delete('payment-required');
  return new Response(answer.body, { status: answer.status, headers });
};
const client = new x402Client().registerV1('base-sepolia', new ExactEvmSchemeV1(privateKeyToAccount(key)));
const response = await wrapFetchWithPayment(old, client)(url, { method: 'POST', body: 'hello' });
const receipt = response.headers.get('x-payment-response');
console.log(
  JSON.stringify({
    status: response.status,
    body: await response.text(),
    receipt: receipt && decodePaymentResponseHeader(receipt),
  }),
);
