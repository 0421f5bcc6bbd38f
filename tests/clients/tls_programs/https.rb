require "digest"
require "net/http"

url = URI(ARGV[0])
Net::HTTP.start(url.host, url.port, use_ssl: true, open_timeout: 30, read_timeout: 30) do |http|
  answer = http.get("/blob")
  puts "GET #{answer.code} #{Digest::SHA256.hexdigest(answer.body)} HTTP/#{answer.http_version}"
  answer = http.post("/echo", "sent by net/http")
  puts "POST #{answer.code} #{answer["x-proxy-error"]}"
  puts answer.body
end
