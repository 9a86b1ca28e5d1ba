// @x402/fetch and @x402/evm as their README has them: pays a URL, says what came.
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from '@x402/fetch';
import { ExactEvmScheme } from '@x402/evm/exact/client';
import { privateKeyToAccount } from 'viem/accounts';

const [url, key, asset, maxAmountPerPayment] = process.argv.slice(2);
const client = new x402Client().register('eip155:*', new ExactEvmScheme(privateKeyToAccount(key)));
// Whoever pays in a token that the packages do not know by heart must name it, and may
// cap what one request costs.
if (asset) client.setSpendControls({ allowedAssets: [{ network: 'eip155:338', asset, maxAmountPerPayment }] });
const response = await wrapFetchWithPayment(fetch, client)(url, { method: 'POST', body: 'hello' });
const receipt = response.headers.get('payment-response');
console.log(
  JSON.stringify({
    status: response.status,
    body: await response.text(),
    receipt: receipt && decodePaymentResponseHeader(receipt),
  }),
);
