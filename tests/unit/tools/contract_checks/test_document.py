from tools.contract_checks.document import PAGE, filled


def test_the_page_of_the_checks_lists_every_exemption_and_survivor() -> None:
    page = PAGE.read_text()
    assert "<!-- exemptions -->" in page
    assert "<!-- survivors -->" in page
    assert filled(page) == page
