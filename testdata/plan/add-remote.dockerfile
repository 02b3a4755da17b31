FROM busybox
ADD http://h.invalid/a/b.txt?q=1 https://h.invalid/x.git#main:docs local.tar /d/
ADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 --unpack=true http://h.invalid/ /e
ADD --keep-git-dir=true --checksum=abcdef git@h.invalid:a/b.git /g
