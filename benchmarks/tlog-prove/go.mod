module stele.example/tlog-prove

go 1.27.0

require golang.org/x/mod v0.43.0
