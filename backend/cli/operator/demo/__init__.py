"""`loraledger demo`: the value loop end to end, through wallets and the stock OpenAI client."""
