"""Client of a market's API for programs and for the command line: wallets, sessions, and what they sign.

    deployment = read_deployment(Path("deployments/8453.json"))
    wallet = Wallet(LocalKey(private_key), deployment, approve=print)
    with ApiClient("https://market.example", wallet).sign_in() as client:
        deposit(client, units=5_000_000)

It needs httpx, eth-account and Keccak, and nothing of an operator's installation.
"""
